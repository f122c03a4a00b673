"""From a checked series to mails: sign, format, show, send one by one, remember what was sent."""
