"""What the server tells its operators, in lines on stderr.

`setup` puts it together once; everybody else uses the standard library's `logging`. A record goes
through `limits` (how often), a `layout` (which text, escaped and cut) and the `writer` (a queue and
a thread, so that whoever logs never waits for whoever reads).
"""
