"""The services for cameras and browsers: endpoints, uploads, social sites, the web page."""
