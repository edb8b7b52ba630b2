"""What a user of the offline package must fix. A leaf."""


class TrainingError(Exception):
    """Something given is wrong; the message names it. The command prints it and exits with
    `status`."""

    status = 2
