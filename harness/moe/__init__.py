"""What happens inside mixture-of-experts layers: routing logs, their balance and pictures."""
