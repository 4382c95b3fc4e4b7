// Header of a snapshot: settings of the table, ids of the snapshot and its parent.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/settings.hpp"
#include "snapshot/file.hpp"

namespace monolith {

constexpr uint32_t kSnapshotVersion = 2;

struct SnapshotMeta {
    TableSettings settings;
    uint64_t id = 0, parent = 0;  // parent 0: a base
};

// Bytes of a slice in the header: a name may be empty.
constexpr size_t kLeastSliceBytes = sizeof(uint64_t) + 5 * sizeof(uint32_t) + sizeof(Hyperparameters);

// Visit the header's fields in order: a Writer reads them from `meta`, a Reader stores them there. Read by
// monolith_py/table/table_settings.py, too.
template <typename Archive, typename Meta>
void visit_meta(Archive& archive, Meta& meta) {
    auto& s = meta.settings;
    archive.fields(meta.id, meta.parent, s.seed, s.admission, s.admit_after, s.sketch_bytes, s.sketch_window_s, s.ttl_s,
                   s.eviction, s.budget_bytes, s.half_life_s);
    archive.length(s.slices, kLeastSliceBytes);
    for (auto& slice : s.slices)
        archive.fields(slice.name, slice.dim, slice.optimizer, slice.hyperparameters, slice.initializer,
                       slice.init_scale, slice.encoding);
}

inline void write_meta(Writer& out, const SnapshotMeta& meta) {
    out.field(kSnapshotVersion);
    visit_meta(out, meta);
}

// Whether all numbers are finite and not negative, and the decays below 1: then rows stay finite.
inline bool are_in_range(const Hyperparameters& h) {
    const auto values = std::bit_cast<std::array<float, sizeof h / sizeof(float)>>(h);
    return std::all_of(values.begin(), values.end(), [](float value) { return value >= 0 && !std::isinf(value); }) &&
           std::max({h.momentum, h.rho, h.beta1, h.beta2}) < 1;
}

// Checksums protect from accidents; a header that no table wrote is refused here. `state_bytes`: of the state, which
// holds the sketch.
inline void check_ranges(const std::string& path, const SnapshotMeta& meta, uint64_t state_bytes) {
    const TableSettings& settings = meta.settings;
    const auto check = [&](const char* field, bool holds) {
        if (!holds) throw SnapshotError(path + ": damaged: " + field + " of the header is out of range");
    };
    check("id", meta.id != 0);
    uint64_t dim = 0;
    for (const Slice& slice : settings.slices) {
        check("a hyperparameter", are_in_range(slice.hyperparameters));
        check("init_scale", std::isfinite(slice.init_scale));
        check("optimizer", slice.optimizer <= Optimizer::kGroupFtrl);
        check("initializer", slice.initializer <= Initializer::kXavier);
        check("encoding", slice.encoding <= Encoding::kInt4);
        check("dim", slice.dim >= 1 && slice.dim <= kMostDim);
        dim += slice.dim;
    }
    check("dim", dim > 0 && dim <= kMostDim);
    check("admission", settings.admission <= Admission::kGeometric);
    check("eviction", settings.eviction <= Eviction::kScore);
    check("admit_after", settings.admit_after >= 1 && settings.admit_after <= 0xFFFF);
    check("ttl_s", settings.ttl_s >= 0 && settings.ttl_s <= kMostSeconds);
    check("sketch_window_s", settings.sketch_window_s >= 0 && settings.sketch_window_s <= kMostSeconds);
    check("half_life_s", settings.half_life_s >= (settings.eviction == Eviction::kScore ? 1 : 0) &&
                             settings.half_life_s <= kMostSeconds);
    check("sketch_bytes", settings.admission != Admission::kSketch || settings.sketch_bytes <= state_bytes);
}

inline SnapshotMeta read_meta(const SnapshotFileReader& file) {
    Reader in = file.reader(file.only(ChunkTag::kHeader));
    if (const auto version = in.value<uint32_t>(); version != kSnapshotVersion)
        throw SnapshotError(file.path() + ": version must be " + std::to_string(kSnapshotVersion) + ", got " +
                            std::to_string(version));
    SnapshotMeta meta;
    visit_meta(in, meta);
    in.finish();
    check_ranges(file.path(), meta, file.only(ChunkTag::kState).head.bytes);
    return meta;
}

// Check the settings that define the weights of a row. All others may differ: optimizers, start values, seed,
// admission, time to live, memory budget and encodings.
inline void check_settings(const std::string& path, const TableSettings& expected, const TableSettings& got) {
    const auto check = [&](const std::string& field, auto want, auto have) {
        if (want != have)
            throw SnapshotError(path + ": is of another table: " + field + " expected " + std::to_string(want) +
                                ", got " + std::to_string(have));
    };
    check("slices", expected.slices.size(), got.slices.size());
    for (size_t i = 0; i < expected.slices.size(); ++i) {
        const Slice &want = expected.slices[i], &have = got.slices[i];
        const std::string of = expected.slices.size() > 1 ? "slice " + want.name + " " : "";
        if (want.name != have.name)
            throw SnapshotError(path + ": is of another table: slice expected " + want.name + ", got " + have.name);
        check(of + "dim", want.dim, have.dim);
    }
}

}  // namespace monolith
