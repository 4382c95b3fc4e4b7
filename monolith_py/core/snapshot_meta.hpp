// What a snapshot says of its table: the settings, and which snapshot it is of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "settings.hpp"
#include "snapshot_file.hpp"

namespace monolith {

constexpr uint32_t kSnapshotVersion = 2;

struct SnapshotMeta {
    TableSettings settings;
    uint64_t id = 0, parent = 0;  // parent 0: a base
};

inline void write_meta(Writer& out, const SnapshotMeta& meta) {
    const TableSettings& s = meta.settings;
    out.value(kSnapshotVersion);
    out.value(meta.id);
    out.value(meta.parent);
    out.value(s.seed);
    out.value(s.admission);
    out.value(s.admit_after);
    out.value(s.sketch_bytes);
    out.value(s.sketch_window_s);
    out.value(s.ttl_s);
    out.value(s.eviction);
    out.value(s.budget_bytes);
    out.value(s.half_life_s);
    out.value(uint64_t{s.slices.size()});
    for (const Slice& slice : s.slices) {
        out.text(slice.name);
        out.value(slice.dim);
        out.value(slice.optimizer);
        out.value(slice.hyper);
        out.value(slice.initializer);
        out.value(slice.init_scale);
        out.value(slice.encoding);
    }
}

inline SnapshotMeta read_meta(const SnapshotFileReader& file) {
    Reader in = file.reader(file.only(ChunkTag::kHeader));
    if (const auto version = in.value<uint32_t>(); version != kSnapshotVersion)
        throw SnapshotError(file.path() + ": is of version " + std::to_string(version) + ", expected " +
                            std::to_string(kSnapshotVersion));
    SnapshotMeta meta;
    TableSettings& s = meta.settings;
    meta.id = in.value<uint64_t>();
    meta.parent = in.value<uint64_t>();
    s.seed = in.value<uint64_t>();
    s.admission = in.value<Admission>();
    s.admit_after = in.value<uint32_t>();
    s.sketch_bytes = in.value<uint64_t>();
    s.sketch_window_s = in.value<int64_t>();
    s.ttl_s = in.value<int64_t>();
    s.eviction = in.value<Eviction>();
    s.budget_bytes = in.value<uint64_t>();
    s.half_life_s = in.value<int64_t>();
    s.slices.resize(std::min<uint64_t>(in.value<uint64_t>(), in.left()));
    for (Slice& slice : s.slices) {
        slice.name = in.text();
        slice.dim = in.value<uint32_t>();
        slice.optimizer = in.value<Optimizer>();
        slice.hyper = in.value<Hyper>();
        slice.initializer = in.value<Initializer>();
        slice.init_scale = in.value<float>();
        slice.encoding = in.value<Encoding>();
    }
    return meta;
}

// What must be equal for rows to mean the same; rates, time to live, budget and encoding may differ.
inline void check_settings(const std::string& path, const TableSettings& expected, const TableSettings& got) {
    const auto check = [&](const std::string& field, auto want, auto have) {
        if (want != have)
            throw SnapshotError(path + ": is of another table, " + field + " expected " + std::to_string(want) +
                                ", got " + std::to_string(have));
    };
    check("slices", expected.slices.size(), got.slices.size());
    for (size_t i = 0; i < expected.slices.size(); ++i) {
        const Slice &want = expected.slices[i], &have = got.slices[i];
        const std::string of = expected.slices.size() > 1 ? "slice " + want.name + " " : "";
        if (want.name != have.name)
            throw SnapshotError(path + ": is of another table, slice expected " + want.name + ", got " + have.name);
        check(of + "dim", want.dim, have.dim);
        check(of + "optimizer", static_cast<uint32_t>(want.optimizer), static_cast<uint32_t>(have.optimizer));
        check(of + "initializer", static_cast<uint32_t>(want.initializer), static_cast<uint32_t>(have.initializer));
        check(of + "init_scale", want.init_scale, have.init_scale);
    }
    check("seed", expected.seed, got.seed);
    check("admission", static_cast<uint32_t>(expected.admission), static_cast<uint32_t>(got.admission));
    check("admit_after", expected.admit_after, got.admit_after);
    check("sketch_bytes", expected.sketch_bytes, got.sketch_bytes);
    check("sketch_window_s", expected.sketch_window_s, got.sketch_window_s);
    check("ttl_s", expected.ttl_s, got.ttl_s);
}

}  // namespace monolith
