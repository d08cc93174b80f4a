"""Running a comparison: tasks, the messages and files of workers, their processes, and the session of one run."""
