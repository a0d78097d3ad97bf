"""What happens inside mixture-of-experts layers: routing logs, expert-parallel rules, kernel bench output."""
