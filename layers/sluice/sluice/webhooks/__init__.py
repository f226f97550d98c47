"""Takes deliveries of webhooks: verified, mapped to events, stored."""
