"""Jobs: runs of resync, scrub and gc that are durable, observable and can be paused, cancelled and retried."""
