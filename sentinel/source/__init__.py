"""Where log bytes come from: files that grow (:mod:`.follow`) and logs that are finished (:mod:`.archive`).

Both hand out :class:`~sentinel.maillog.chunk.Chunk`, whole lines with their place of origin. Import the module you
need; this one imports nothing, so that a replay does not pay for the file watcher.
"""
