"""How published benchmarks score answers: functions of an answer, its references, and quirks to be reproduced."""
