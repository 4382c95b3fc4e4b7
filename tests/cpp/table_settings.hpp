// Settings and helpers for tables in tests.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "check.hpp"
#include "snapshot/writer.hpp"

namespace monolith::check {

inline TableSettings settings_of(uint32_t dim, Optimizer optimizer, float lr, float init_scale,
                                 uint32_t admit_after = 1, int64_t ttl_s = 0) {
    Slice slice;
    slice.name = "weights";
    slice.dim = dim;
    slice.optimizer = optimizer;
    slice.hyperparameters.lr = lr;
    slice.init_scale = init_scale;
    TableSettings settings;
    settings.slices = {slice};
    settings.seed = 7;
    settings.admit_after = admit_after;
    settings.ttl_s = ttl_s;
    return settings;
}

// Update with gradients filled in by add_gradient(i, gradient) for each position i.
template <typename AddGradient>
size_t update(EmbeddingTable& table, const std::vector<uint32_t>& rows, AddGradient&& add_gradient) {
    std::vector<float> gradients(rows.size() * table.dim());
    for (size_t i = 0; i < rows.size(); ++i) add_gradient(static_cast<uint32_t>(i), &gradients[i * table.dim()]);
    return table.update(rows.data(), rows.size(), {gradients.data(), table.dim(), nullptr, nullptr});
}

inline void save(EmbeddingTable& table, const std::string& path, uint64_t id = 1, uint64_t parent = 0) {
    SnapshotWriter writer(table, path, id, parent);
    writer.finish();
    writer.commit();
}

// Content of a table, sorted by fid, and its counts: equal tables give equal strings.
inline std::string content_of(EmbeddingTable& table) {
    std::string content;
    const auto bytes = [&](const void* data, size_t size) { content.append(static_cast<const char*>(data), size); };
    std::vector<std::tuple<int64_t, uint32_t, uint16_t, int64_t>> entries;
    table.for_each([&](int64_t fid, uint32_t row, uint16_t count, int64_t seen_s) {
        entries.push_back({fid, row, count, seen_s});
    });
    std::sort(entries.begin(), entries.end());
    for (const auto& [fid, row, count, seen_s] : entries) {
        bytes(&fid, sizeof fid);
        bytes(&count, sizeof count);
        bytes(&seen_s, sizeof seen_s);
        if (row == kNoRow) continue;
        bytes(table.weights(row), table.dim() * sizeof(float));
        bytes(table.state(row), table.rows().state_width * sizeof(float));
    }
    for (const auto& [name, value] : table.stats())
        if (name != "bytes" && name != "id_map_capacity") content += name + "=" + std::to_string(value) + ";";
    return content;
}

// Map, row store and counts agree.
inline void whole(EmbeddingTable& table) {
    TableContent& content = table.content();
    std::set<uint32_t> rows;
    uint64_t candidates = 0;
    content.map.for_each([&](Slot slot) {
        CHECK(content.map.find(slot.key()).index == slot.index);
        if (slot.row() == kCandidate) {
            ++candidates;
            return;
        }
        CHECK(slot.row() < content.store.end());
        CHECK(content.store.fid(slot.row()) == slot.key());
        CHECK(rows.insert(slot.row()).second);
    });
    CHECK(content.counts.rows == rows.size());
    CHECK(content.counts.candidates == candidates);
    CHECK(content.map.size() == rows.size() + candidates);
    CHECK(content.store.num_free() + rows.size() == content.store.end());  // no row is lost
}

}  // namespace monolith::check
