"""Who a queue ID belongs to: the join of a message's lines under its queue ID."""
