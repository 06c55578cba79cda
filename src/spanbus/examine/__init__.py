"""What `spanbus doctor` looks at: settings, what lies on this machine, every server from outside."""
