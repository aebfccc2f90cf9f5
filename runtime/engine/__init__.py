"""Acting: what turns a plan into a running pod."""
