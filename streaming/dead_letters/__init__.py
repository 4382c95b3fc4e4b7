"""Dead letters for operators: selection, counts by reason, and putting back to their topics."""

from monolith_streaming.dead_letters.ledger import Ledger
from monolith_streaming.dead_letters.reinjection import Reinjector
from monolith_streaming.dead_letters.selection import Selection, count_by_rule

__all__ = ["Ledger", "Reinjector", "Selection", "count_by_rule"]
