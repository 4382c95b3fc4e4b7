// A table with its lock, and checks of arguments. Included only by sources of the bindings.
#pragma once

#include <algorithm>
#include <shared_mutex>
#include <stdexcept>
#include <string>

#include "table/embedding_table.hpp"
#include "tower/interaction.hpp"

namespace monolith {

struct Table {
    EmbeddingTable table;
    std::shared_mutex mutex;
    bool is_saving = false;  // a snapshot is in progress
    explicit Table(const TableSettings& settings) : table(settings) {}
};

// Event time in seconds.
inline void expect_time(int64_t now_s) {
    if (now_s < -kMostSeconds || now_s > kMostSeconds)
        throw std::invalid_argument("now_s must be within 2^40 seconds of the epoch, got " + std::to_string(now_s));
}

// A gradient is not finite or too large.
struct NotFinite : std::runtime_error {
    using std::runtime_error::runtime_error;
};
inline void expect_bounded(const float* gradients, size_t n) {
    if (!all_bounded(gradients, n))
        throw NotFinite("gradient of the pooled rows must be below 2^48, got NaN, Inf or more; no row was changed");
}

// Whether an allocated row is that of the fid. The caller holds the table's lock.
inline bool holds(const EmbeddingTable& table, uint32_t row, int64_t fid) {
    return row < kCandidate && table.fid(row) == fid;
}

// Rows must be NO_ROW or allocated. The caller holds the table's lock.
inline void expect_rows(const EmbeddingTable& table, const uint32_t* rows, size_t n) {
    uint32_t end = 0;
    for (size_t i = 0; i < n; ++i) end = std::max(end, rows[i] + 1);  // NO_ROW + 1 is 0
    if (end > table.end_row())
        throw std::invalid_argument("rows must be NO_ROW or below " + std::to_string(table.end_row()) + ", got " +
                                    std::to_string(end - 1));
}

}  // namespace monolith
