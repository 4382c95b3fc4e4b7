// Examples of a step of the joiner, for Python.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "bindings/joiner_types.hpp"
#include "joiner/records.hpp"

namespace {

inline std::vector<const Emission*> written_by(const Partition& partition) {
    std::vector<const Emission*> written;
    const std::optional<Range>& range = partition.settings().range;
    for (const Emission& emission : partition.waiting().outcome().emissions)
        if (emission.kind != Emission::kSampledAway && (!range || range->has(emission.time_ms)))
            written.push_back(&emission);
    return written;
}

// Columns of examples, and what the codec needs to name them.
struct Examples {
    ExampleColumns columns;
    nb::tuple names() const {
        nb::list sparse, dense, models;
        for (const SparseColumn& column : columns.features().sparse()) sparse.append(column.name());
        for (const DenseColumn& column : columns.features().dense())
            dense.append(nb::make_tuple(column.name(), column.width()));
        for (const auto& [arm, version] : columns.served().models()) models.append(nb::make_tuple(arm, version));
        return nb::make_tuple(sparse, dense, columns.served().tasks_with_scores(), models);
    }
};

// Return `prefix`, followed by the record batch.
inline nb::bytes record_of(const Examples& examples, const nb::bytes& prefix) {
    const size_t size = prefix.size() + examples.columns.write(nullptr);
    PyObject* record = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
    if (record == nullptr) nb::raise_python_error();
    char* out = PyBytes_AS_STRING(record);
    std::memcpy(out, prefix.c_str(), prefix.size());
    examples.columns.write(out + prefix.size());
    return nb::steal<nb::bytes>(record);
}

// The examples of a step, in order; valid until the step is cleared.
class Written {
  public:
    explicit Written(const Partition& partition) : partition_(partition), emissions_(written_by(partition)) {}
    size_t size() const { return emissions_.size(); }
    // Return examples [start, stop).
    Examples examples(size_t start, size_t stop) const {
        if (start > stop || stop > emissions_.size()) refuse("stop must be in [start, " + std::to_string(size()) + "]");
        const Settings& settings = partition_.settings();
        return {
            {emissions_.data() + start, stop - start, settings.rules.tasks, settings.widths, settings.rules.labels}};
    }
    int64_t newest_ms() const {
        int64_t newest_ms = 0;
        for (const Emission* emission : emissions_) newest_ms = std::max(newest_ms, emission->time_ms);
        return newest_ms;
    }

  private:
    const Partition& partition_;
    std::vector<const Emission*> emissions_;
};

// Return (fids, lengths) of each named feature that an emission has, for all emissions of the step.
inline nb::dict counted_columns(const Partition& partition, const std::vector<std::string>& names) {
    std::vector<const Emission*> emitted;
    for (const Emission& emission : partition.waiting().outcome().emissions) emitted.push_back(&emission);
    FeatureColumns columns(partition.settings().widths, &names, emitted.size());
    for_each_impression(emitted.data(), emitted.size(),
                        [&](const Impression& impression, const auto& rows) { columns.add(impression, rows); });
    columns.finish();
    nb::dict result;
    for (const SparseColumn& column : columns.sparse()) {
        std::vector<int32_t> offsets(emitted.size() + 1), lengths;
        column.write_offsets(reinterpret_cast<char*>(offsets.data()));
        for (size_t row = 0; row < emitted.size(); ++row) lengths.push_back(offsets[row + 1] - offsets[row]);
        result[nb::cast(column.name())] = nb::make_tuple(vector_array(column.fids()), vector_array(lengths));
    }
    return result;
}

// Return kinds uint8 (255: sampled away), whether each is the first of its candidate, and labels, of all emissions.
inline nb::tuple emissions_of(const Partition& partition) {
    std::vector<uint8_t> kinds, firsts;
    std::vector<uint64_t> labels;
    for (const Emission& emission : partition.waiting().outcome().emissions) {
        kinds.push_back(emission.kind);
        firsts.push_back(emission.is_first);
        labels.push_back(emission.labels);
    }
    return nb::make_tuple(vector_array(kinds), vector_array(firsts), vector_array(labels));
}

// Return of all emissions: offset of the impression, row of the candidate, sample rate, event time of knowing the
// labels.
inline nb::tuple places_of_emissions(const Partition& partition) {
    std::vector<int64_t> offsets, rows, known_ms;
    std::vector<float> rates;
    for (const Emission& emission : partition.waiting().outcome().emissions) {
        offsets.push_back(emission.offset);
        rows.push_back(emission.row);
        rates.push_back(emission.sample_rate);
        known_ms.push_back(emission.known_ms);
    }
    return nb::make_tuple(vector_array(offsets), vector_array(rows), vector_array(rates), vector_array(known_ms));
}

}  // namespace
