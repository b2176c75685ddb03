"""Interfaces to Linux, one file per interface."""
