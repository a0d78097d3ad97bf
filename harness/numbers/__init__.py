"""From records to numbers with intervals. Pure, but for reading records."""
