"""Who answers what: endpoints, hotspot checks, social API, sessions, uploads, the web page."""
