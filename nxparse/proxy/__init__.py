"""What mitmproxy lacks: transport, network addresses, set-up hints, unknown hosts."""
