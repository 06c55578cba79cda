"""Facts become open and ended spans: to which run, phase and attempt each of them belongs."""
