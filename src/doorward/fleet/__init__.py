"""Share openings and used signed knocks between gates, through etcd."""
