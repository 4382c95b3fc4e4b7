// A table with its lock, and checks of arguments. Included only by sources of the bindings.
#pragma once

#include <algorithm>
#include <shared_mutex>
#include <stdexcept>
#include <string>

#include "table/embedding_table.hpp"

namespace monolith {

struct Table {
    EmbeddingTable table;
    std::shared_mutex mutex;
    bool is_saving = false;  // a snapshot is in progress
    explicit Table(const TableSettings& settings) : table(settings) {}
};

// Event time in seconds. The limit is 30,000 years on either side: sums of times cannot overflow.
inline void expect_time(int64_t now_s) {
    constexpr int64_t kMost = int64_t{1} << 40;
    if (now_s < -kMost || now_s > kMost)
        throw std::invalid_argument("now_s must be within 2^40 seconds of the epoch, got " + std::to_string(now_s));
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
