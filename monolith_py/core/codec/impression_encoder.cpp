#include "codec/impression_encoder.hpp"

#include <cstring>
#include <utility>

namespace monolith::codec {

namespace {

// Number of a field and its wire type.
constexpr char tag(int field, int wire_type) { return static_cast<char>(field << 3 | wire_type); }
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2;

// Target of bytes: a text, memory that is large enough, or nothing (their number counts).
struct ToString {
    std::string& out;
    void byte(char value) { out.push_back(value); }
    // Make room for bytes to be written; null if nobody reads them.
    char* room(size_t num_bytes) {
        out.resize(out.size() + num_bytes);
        return out.data() + (out.size() - num_bytes);
    }
};
struct ToMemory {
    char* at;
    void byte(char value) { *at++ = value; }
    char* room(size_t num_bytes) { return std::exchange(at, at + num_bytes); }
};
struct Count {
    size_t num = 0;
    void byte(char) { ++num; }
    char* room(size_t num_bytes) { return num += num_bytes, nullptr; }
};

template <typename Sink>
void put_varint(uint64_t value, Sink& out) {
    for (; value >= 128; value >>= 7) out.byte(static_cast<char>(value | 128));
    out.byte(static_cast<char>(value));
}

size_t varint_bytes(uint64_t value) {
    size_t num = 1;
    for (; value >= 128; value >>= 7) ++num;
    return num;
}

template <typename Sink>
void put_bytes(int field, std::string_view bytes, Sink& out) {
    out.byte(tag(field, kBytes));
    put_varint(bytes.size(), out);
    char* const to = out.room(bytes.size());
    if (to != nullptr && !bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
}

template <typename Sink>
void put_text(int field, std::string_view text, Sink& out) {
    if (!text.empty()) put_bytes(field, text, out);
}

template <typename T, typename Sink>
void put_values(int field, const T* values, size_t num, Sink& out) {
    if (num > 0) put_bytes(field, {reinterpret_cast<const char*>(values), num * sizeof(T)}, out);
}

size_t text_bytes(std::string_view text) { return text.empty() ? 0 : 1 + varint_bytes(text.size()) + text.size(); }
size_t field_bytes(size_t size) { return size == 0 ? 0 : 1 + varint_bytes(size) + size; }

// Sizes of the fields of one sparse column in bytes; 0 for a field that is left out.
struct SparseSizes {
    size_t fids = 0;
    size_t lengths = 0;  // none with one fid in each row
};

SparseSizes sizes_of(const PackedRows& rows, size_t feature, size_t num_features) {
    if (rows.starts == nullptr) return {rows.num_rows * sizeof(int64_t), 0};
    SparseSizes sizes;
    bool is_single = rows.num_rows > 0;
    for (size_t row = 0; row < rows.num_rows; ++row) {
        const auto length = static_cast<size_t>(rows.lengths[row * num_features + feature]);
        sizes.fids += length * sizeof(int64_t);
        sizes.lengths += varint_bytes(length);
        is_single &= length == 1;
    }
    if (is_single) sizes.lengths = 0;
    return sizes;
}

void put_fids(const PackedRows& rows, size_t feature, size_t num_features, char* to) {
    for (size_t row = 0; row < rows.num_rows; ++row) {
        const size_t place = row * num_features + feature;
        const int64_t* const fids =
            rows.fids + (rows.starts == nullptr ? place : static_cast<size_t>(rows.starts[place]));
        const size_t length = rows.starts == nullptr ? 1 : static_cast<size_t>(rows.lengths[place]);
        if (length == 1) {
            std::memcpy(to, fids, sizeof(int64_t));
        } else if (length > 0) {
            std::memcpy(to, fids, length * sizeof(int64_t));
        }
        to += length * sizeof(int64_t);
    }
}

size_t sparse_bytes(const std::string& name, const SparseSizes& sizes) {
    return text_bytes(name) + field_bytes(sizes.fids) + field_bytes(sizes.lengths);
}

template <typename Sink>
void put_sparse(const std::string& name, const PackedRows& rows, size_t feature, size_t num_features,
                const SparseSizes& sizes, Sink& out) {
    out.byte(tag(1, kBytes));
    put_varint(sparse_bytes(name, sizes), out);
    put_text(1, name, out);
    if (sizes.fids > 0) {
        out.byte(tag(2, kBytes));
        put_varint(sizes.fids, out);
        char* const to = out.room(sizes.fids);
        if (to != nullptr) put_fids(rows, feature, num_features, to);
    }
    if (sizes.lengths == 0) return;
    out.byte(tag(3, kBytes));
    put_varint(sizes.lengths, out);
    for (size_t row = 0; row < rows.num_rows; ++row)
        put_varint(static_cast<uint64_t>(rows.lengths[row * num_features + feature]), out);
}

size_t dense_bytes(const std::string& name, size_t width, size_t num_rows) {
    return text_bytes(name) + field_bytes(num_rows * width * sizeof(float));
}

template <typename Sink>
void put_dense(const std::string& name, size_t width, const float* first, size_t stride, size_t num_rows, Sink& out) {
    const size_t num_bytes = num_rows * width * sizeof(float);
    out.byte(tag(2, kBytes));
    put_varint(dense_bytes(name, width, num_rows), out);
    put_text(1, name, out);
    if (num_bytes == 0) return;
    out.byte(tag(2, kBytes));
    put_varint(num_bytes, out);
    char* const to = out.room(num_bytes);
    for (size_t row = 0; to != nullptr && row < num_rows; ++row)
        std::memcpy(to + row * width * sizeof(float), first + row * stride, width * sizeof(float));
}

template <typename Sink>
void put_all_columns(int field, const RowFeatures& features, const PackedRows& rows, const std::vector<bool>& chosen,
                     Sink& out) {
    const size_t num_features = features.sparse.size(), stride = features.width();
    const auto takes = [&](size_t feature) { return chosen.empty() || chosen[feature]; };
    std::vector<SparseSizes> sizes(num_features);
    size_t num_bytes = 0;
    for (size_t feature = 0; feature < num_features; ++feature) {
        if (!takes(feature)) continue;
        sizes[feature] = sizes_of(rows, feature, num_features);
        num_bytes += field_bytes(sparse_bytes(features.sparse[feature], sizes[feature]));
    }
    for (size_t i = 0; i < features.dense.size(); ++i)
        if (takes(num_features + i))
            num_bytes += field_bytes(dense_bytes(features.dense[i].first, features.dense[i].second, rows.num_rows));
    out.byte(tag(field, kBytes));
    put_varint(num_bytes, out);
    for (size_t feature = 0; feature < num_features; ++feature)
        if (takes(feature)) put_sparse(features.sparse[feature], rows, feature, num_features, sizes[feature], out);
    size_t first = 0;
    for (size_t i = 0; i < features.dense.size(); ++i) {
        const auto& [name, width] = features.dense[i];
        if (takes(num_features + i)) put_dense(name, width, rows.dense + first, stride, rows.num_rows, out);
        first += width;
    }
}

template <typename Sink>
void put_impression(const RowFeatures& shared, const RowFeatures& candidates, const std::vector<std::string>& tasks,
                    std::string_view arm, const ServedRequest& request, Sink& out) {
    const size_t num_candidates = request.candidates.num_rows;
    put_text(1, request.request_id, out);
    if (request.time_ms != 0) {
        out.byte(tag(2, kVarint));
        put_varint(static_cast<uint64_t>(request.time_ms), out);
    }
    if (request.user_id != 0) {
        out.byte(tag(3, kFixed64));
        char* const to = out.room(sizeof request.user_id);
        if (to != nullptr) std::memcpy(to, &request.user_id, sizeof request.user_id);
    }
    put_values(4, request.item_ids, num_candidates, out);
    put_all_columns(5, shared, request.shared, {}, out);
    put_all_columns(6, candidates, request.candidates, {}, out);
    put_values(7, request.scores, num_candidates * tasks.size(), out);
    for (const std::string& task : tasks) put_bytes(8, task, out);
    put_text(9, request.model_version, out);
    put_text(10, arm, out);
}

}  // namespace

size_t RowFeatures::width() const {
    size_t width = 0;
    for (const auto& feature : dense) width += feature.second;
    return width;
}

void put_columns(int field, const RowFeatures& features, const PackedRows& rows, const std::vector<bool>& chosen,
                 std::string& out) {
    ToString to{out};
    put_all_columns(field, features, rows, chosen, to);
}

size_t ImpressionEncoder::num_bytes(const ServedRequest& request) const {
    Count count;
    put_impression(shared_, candidates_, tasks_, arm_, request, count);
    return count.num;
}

void ImpressionEncoder::encode(const ServedRequest& request, char* out) const {
    ToMemory to{out};
    put_impression(shared_, candidates_, tasks_, arm_, request, to);
}

}  // namespace monolith::codec
