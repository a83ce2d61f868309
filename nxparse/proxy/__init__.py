"""The addons' parts between mitmproxy and the server: connections, exchanges, DNS, advice."""
