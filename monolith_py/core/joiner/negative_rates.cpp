#include "joiner/negative_rates.hpp"

#include <algorithm>
#include <stdexcept>

#include "joiner/wire.hpp"

namespace monolith::joiner {

void NegativeRates::add(std::string_view feature, int64_t fid, double rate) {
    auto place =
        std::find_if(features_.begin(), features_.end(), [&](const Feature& one) { return one.name == feature; });
    if (place == features_.end()) place = features_.insert(place, {std::string(feature), {}});
    place->by_fid.try_emplace(fid, Rate{num_added_++, rate});
}

const NegativeRates::Feature* NegativeRates::find(std::string_view name) const {
    for (const Feature& feature : features_)
        if (feature.name == name) return &feature;
    return nullptr;
}

void NegativeRates::of(const Impression& impression, std::vector<double>& rates) const {
    const auto num = static_cast<uint32_t>(impression.num_candidates());
    std::vector<Rate> first(num, {SIZE_MAX, default_});
    std::vector<Column> columns;
    for (const bool is_shared : {true, false}) {
        const size_t num_rows = is_shared ? 1 : num;
        if (!read_columns(is_shared ? impression.shared : impression.candidates, num_rows, columns))
            throw std::logic_error("the features of an impression were read before");
        for (const Column& column : columns) {
            const Feature* feature = column.is_dense ? nullptr : find(column.name);
            if (feature == nullptr) continue;
            const std::vector<Rate> of_rows = feature->of(column, num_rows);
            for (size_t row = 0; row < num; ++row) {
                const Rate& found = of_rows[is_shared ? 0 : row];
                if (found.order < first[row].order) first[row] = found;
            }
        }
    }
    rates.resize(num);
    std::transform(first.begin(), first.end(), rates.begin(), [](const Rate& one) { return one.rate; });
}

// Return the first rate of each bag of a column, of order SIZE_MAX without one.
std::vector<NegativeRates::Rate> NegativeRates::Feature::of(const Column& column, size_t num_rows) const {
    std::vector<Rate> found(num_rows, {SIZE_MAX, 1.0});
    Wire lengths(column.lengths);
    const char* fids = column.values.data();
    for (Rate& first : found) {
        uint64_t length = 1;
        if (!column.lengths.empty()) lengths.varint(length);
        for (; length > 0; --length, fids += sizeof(int64_t)) {
            const auto rate = by_fid.find(load<int64_t>(fids));
            if (rate != by_fid.end() && rate->second.order < first.order) first = rate->second;
        }
    }
    return found;
}

double CandidateRates::of(const Request& request, uint32_t row) {
    if (rates_.is_one()) return rates_.default_rate();
    if (impression_.value().data() != request.impression.value().data()) {
        Impression impression;
        if (!read_impression(request.impression.value(), impression))
            throw std::logic_error("a candidate whose example is due must have its impression");
        rates_.of(impression, by_row_);
        impression_ = request.impression;
    }
    return by_row_[row];
}

}  // namespace monolith::joiner
