"""Sessions: who lives and how they ended (`directory`), what is known of each (`register`), whose
state is on the device (`slots`), which step is next (`step_protocol`), and what was answered before
(`replay_cache`)."""
