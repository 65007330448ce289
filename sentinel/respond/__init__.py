"""From detections to a locked account: policy decides, the journal remembers, the locker acts, the responder drives
them.
"""
