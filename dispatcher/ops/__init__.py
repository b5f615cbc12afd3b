"""What a person does, from the command line or over HTTP: status, pause, replay, prune, dead letters, doctor."""
