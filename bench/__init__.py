"""The benchmark harness: a parent that launches one worker process a measurement, and the files and pages it writes."""
