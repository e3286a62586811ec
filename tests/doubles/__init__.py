"""Stand-ins for the two remotes: real HTTP servers on loopback, as strict as the services they stand for."""
