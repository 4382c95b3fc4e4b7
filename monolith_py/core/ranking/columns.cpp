#include "ranking/columns.hpp"

#include <algorithm>

#include "joiner/wire.hpp"

namespace monolith::ranking {

namespace {

using joiner::Wire;

constexpr int kBytes = 2;
constexpr uint8_t tag(int field) { return static_cast<uint8_t>(field << 3 | kBytes); }

// Content of each feature, by its place in the order.
struct Columns {
    explicit Columns(const ColumnOrder& order) : sparse(order.sparse.size()), dense(order.dense.size()) {}
    struct Sparse {
        std::string_view fids;
        std::vector<int32_t> lengths;  // empty: one fid a row
        bool is_given = false;
    };
    struct Dense {
        std::string_view values;
        bool is_given = false;
    };
    std::vector<Sparse> sparse;
    std::vector<Dense> dense;
};

bool read_lengths(std::string_view bytes, size_t num_rows, size_t max_fids, std::vector<int32_t>& lengths,
                  uint64_t& sum) {
    Wire numbers(bytes);
    sum = 0;
    for (uint64_t length = 0; !numbers.done(); sum += length) {
        if (!numbers.varint(length) || length > max_fids || lengths.size() == num_rows) return false;
        lengths.push_back(static_cast<int32_t>(length));
    }
    return lengths.size() == num_rows;
}

bool read_sparse(std::string_view message, const ColumnOrder& order, size_t num_rows, size_t max_fids,
                 Columns& columns) {
    Wire wire(message);
    std::string_view name, fids, lengths;
    if (!wire.tag(tag(1)) || !wire.bytes(name)) return false;
    if (wire.tag(tag(2)) && !wire.bytes(fids)) return false;
    if (wire.tag(tag(3)) && !wire.bytes(lengths)) return false;
    const auto place = std::find(order.sparse.begin(), order.sparse.end(), name);
    if (!wire.done() || fids.size() % sizeof(int64_t) != 0 || place == order.sparse.end()) return false;
    Columns::Sparse& own = columns.sparse[static_cast<size_t>(place - order.sparse.begin())];
    if (own.is_given) return false;
    uint64_t num_fids = num_rows;
    if (lengths.empty() ? max_fids < 1 : !read_lengths(lengths, num_rows, max_fids, own.lengths, num_fids))
        return false;
    if (fids.size() / sizeof(int64_t) != num_fids) return false;
    own.fids = fids;
    own.is_given = true;
    return true;
}

bool read_dense(std::string_view message, const ColumnOrder& order, size_t num_rows, Columns& columns) {
    Wire wire(message);
    std::string_view name, values;
    if (!wire.tag(tag(1)) || !wire.bytes(name)) return false;
    if (wire.tag(tag(2)) && !wire.bytes(values)) return false;
    const auto place = std::find_if(order.dense.begin(), order.dense.end(),
                                    [&](const auto& feature) { return feature.first == name; });
    if (!wire.done() || place == order.dense.end() || values.size() != num_rows * place->second * sizeof(float))
        return false;
    Columns::Dense& own = columns.dense[static_cast<size_t>(place - order.dense.begin())];
    if (own.is_given || !joiner::are_finite(values)) return false;
    own = {values, true};
    return true;
}

void append_sparse(Columns& columns, size_t num_rows, Rows& rows) {
    size_t num_fids = 0;
    for (const Columns::Sparse& one : columns.sparse) num_fids += one.fids.size() / sizeof(int64_t);
    size_t at = rows.fids.size();
    rows.fids.resize(at + num_fids);
    for (size_t row = 0; row < num_rows; ++row)
        for (Columns::Sparse& one : columns.sparse) {
            const int32_t length = !one.is_given ? 0 : one.lengths.empty() ? 1 : one.lengths[row];
            const size_t size = static_cast<size_t>(length) * sizeof(int64_t);
            if (size > 0) std::memcpy(rows.fids.data() + at, one.fids.data(), size);
            one.fids.remove_prefix(size);
            at += static_cast<size_t>(length);
            rows.lengths.push_back(length);
        }
}

void append_dense(const Columns& columns, const ColumnOrder& order, size_t num_rows, Rows& rows) {
    size_t at = rows.dense.size();
    rows.dense.resize(at + num_rows * order.width(), 0.0f);
    for (size_t row = 0; row < num_rows; ++row)
        for (size_t i = 0; i < order.dense.size(); ++i) {
            const size_t width = order.dense[i].second, size = width * sizeof(float);
            const Columns::Dense& one = columns.dense[i];
            if (one.is_given && size > 0) std::memcpy(rows.dense.data() + at, one.values.data() + row * size, size);
            at += width;
        }
}

}  // namespace

bool read_columns(std::string_view message, const ColumnOrder& order, size_t num_rows, size_t max_fids, Rows& rows) {
    Columns columns(order);
    Wire wire(message);
    std::string_view column;
    while (wire.tag(tag(1)))
        if (!wire.bytes(column) || !read_sparse(column, order, num_rows, max_fids, columns)) return false;
    while (wire.tag(tag(2)))
        if (!wire.bytes(column) || !read_dense(column, order, num_rows, columns)) return false;
    if (!wire.done()) return false;
    append_sparse(columns, num_rows, rows);
    append_dense(columns, order, num_rows, rows);
    return true;
}

}  // namespace monolith::ranking
