// Impressions that are read from the log again: those of examples whose request keeps no features.
#include <algorithm>
#include <unordered_map>

#include "joiner/partition.hpp"

namespace monolith::joiner {

std::vector<int64_t> Partition::lacking(bool with_sampled_away) const {
    std::vector<int64_t> offsets;
    for (const Emission& emission : waiting_.outcome().emissions)
        if (!emission.impression.is_there() && (with_sampled_away || emission.kind != Emission::kSampledAway))
            offsets.push_back(emission.offset);
    std::sort(offsets.begin(), offsets.end());
    offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
    return offsets;
}

std::vector<int64_t> Partition::supply(const std::vector<std::pair<int64_t, std::string_view>>& records,
                                       const Judge& judge) {
    std::unordered_map<int64_t, ImpressionBytes> found;
    for (const auto& [offset, value] : records) {
        const Entry entry = entry_of(kImpressions, value, kForeverMs, judge);
        if (entry.fault.empty()) found.emplace(offset, entry.impression);
    }
    std::vector<int64_t> lost;
    waiting_.complete([&](Emission& emission) {
        const auto place = found.find(emission.offset);
        if (place != found.end() && read_impression(place->second.value(), impression_) &&
            impression_.time_ms == emission.time_ms && emission.row < impression_.num_candidates()) {
            emission.impression = place->second;
            return true;
        }
        const bool is_example = emission.kind != Emission::kSampledAway;
        if (is_example && (lost.empty() || lost.back() != emission.offset)) lost.push_back(emission.offset);
        return !is_example;
    });
    return lost;
}

}  // namespace monolith::joiner
