"""Several gates that share openings and seen knocks, by etcd."""
