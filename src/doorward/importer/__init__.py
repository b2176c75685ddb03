"""Convert knockd and fwknop configurations."""
