// Examples in the log as facts of a request's state: for a joiner whose state is older than the log.
//
// A joiner that processes records again must not decide again: it may see them in another order, or with another
// watermark. What an earlier run has emitted is in the log, so it is taken from there (`adopt`), and records of that
// time change labels alone (`withhold`).
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "joiner/labels.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

// Examples in the log: item id -> labels in the places of `LabelLayout`.
using ItemFacts = std::unordered_map<int64_t, uint64_t>;

// Examples in the log by request id: a part of them.
using Facts = std::unordered_map<std::string, ItemFacts>;

// Take over the examples of `request` in the log. The emissions count as sampled away: they are not written.
void adopt(Request& request, const ItemFacts& items, const LabelLayout& layout, Outcome& outcome);

// Note that the candidates of `request` without an example were sampled away, once all of its facts were adopted and
// its window was closed. The emissions are those of `adopt`.
void close_adopted(Request& request, Outcome& outcome);

// Take the examples from emission `first` on out of `outcome`, whose action an earlier run has processed: the log has
// them, or they were not to be. A candidate that would be emitted now stays until its window closes.
void withhold(Request& request, size_t first, Outcome& outcome);

}  // namespace monolith::joiner
