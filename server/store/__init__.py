"""Where sessions outlive the process: records by id, and who owns each (`interface`)."""
