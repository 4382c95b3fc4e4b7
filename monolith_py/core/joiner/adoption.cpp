#include "joiner/adoption.hpp"

#include <algorithm>

namespace monolith::joiner {

namespace {

Emission counted(const Request& request, uint32_t row, uint64_t labels, bool is_first) {
    return {request.impression, request.offset,     row, Emission::kSampledAway, is_first, 1.0F, labels,
            request.time_ms,    request.deadline_ms};
}

bool is_waiting(Status status) { return status == Status::kWaiting || status == Status::kKnown; }

void drop_late(Request& request, uint32_t row) {
    if (!request.actions) return;
    auto& late = request.actions->late;
    late.erase(std::remove_if(late.begin(), late.end(), [row](const LateAction& entry) { return entry.row == row; }),
               late.end());
}

}  // namespace

void adopt(Request& request, const ItemFacts& items, const LabelLayout& layout, Outcome& outcome) {
    ItemFacts marked;
    for (const auto& [item_id, labels] : items)
        if (request.has_marks) {
            uint64_t& known = marked[request.mark_of(item_id)];
            known = layout.merged(known, labels);
        }
    const ItemFacts& facts = request.has_marks ? marked : items;
    for (uint32_t row = 0; row < request.num_candidates; ++row) {
        Request::Candidate& candidate = request.candidates[row];
        if (candidate.status == Status::kRepeated) continue;
        const auto found = facts.find(candidate.item_id);
        if (found == facts.end()) continue;
        const bool is_open = is_waiting(candidate.status);
        const uint64_t fresh = is_open ? found->second : layout.fresh(found->second, candidate.labels);
        if (is_open || fresh) outcome.emissions.push_back(counted(request, row, fresh, is_open));
        request.set_status(row, Status::kEmitted);
        candidate.labels = layout.merged(candidate.labels, found->second);
        drop_late(request, row);
    }
}

void close_adopted(Request& request, Outcome& outcome) {
    for (uint32_t row = 0; row < request.num_candidates; ++row) {
        if (!is_waiting(request.candidates[row].status)) continue;
        request.set_status(row, Status::kSampledAway);
        outcome.emissions.push_back(counted(request, row, request.candidates[row].labels, true));
    }
}

void withhold(Request& request, size_t first, Outcome& outcome) {
    std::vector<Emission>& emissions = outcome.emissions;
    size_t kept = first;
    for (size_t i = first; i < emissions.size(); ++i) {
        if (emissions[i].kind == Emission::kSampledAway)
            emissions[kept++] = emissions[i];
        else if (emissions[i].kind == Emission::kLabelled && emissions[i].is_first)
            request.set_status(emissions[i].row, Status::kKnown);
    }
    emissions.resize(kept);
}

}  // namespace monolith::joiner
