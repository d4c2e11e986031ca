"""The year in a minute: traffic, policies and the replay that compares them. numpy here, never in what runs on AWS."""
