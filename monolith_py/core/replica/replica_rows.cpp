#include "replica/replica_rows.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "bytes/crc32c.hpp"
#include "index/hash.hpp"
#include "table/row_digest.hpp"

namespace monolith {

namespace {

float half_at(const uint8_t* at) {
    _Float16 half;
    std::memcpy(&half, at, sizeof half);
    return static_cast<float>(half);
}

void add(const uint8_t* row, const ReplicaFeature& feature, float* sum) {
    for (uint32_t d = 0; d < feature.dim; ++d) switch (feature.encoding) {
            case Encoding::kFp32: {
                float weight;
                std::memcpy(&weight, row + 4 * d, sizeof weight);
                sum[d] += weight;
                break;
            }
            case Encoding::kFp16:
                sum[d] += half_at(row + 2 * d);
                break;
            case Encoding::kInt8:
                sum[d] += half_at(row) * static_cast<float>(row[4 + d]) + half_at(row + 2);
                break;
            case Encoding::kInt4:
                sum[d] += half_at(row) * static_cast<float>(row[4 + d / 2] >> 4 * (d % 2) & 15) + half_at(row + 2);
                break;
        }
}

}  // namespace

struct ReplicaRows::Content {
    std::vector<ReplicaFeature> features;
    size_t max_rows;
    mutable std::shared_mutex mutex;
    std::vector<std::unordered_map<int64_t, std::vector<uint8_t>>> rows;
    std::vector<uint64_t> digests;
};

ReplicaRows::ReplicaRows(std::vector<ReplicaFeature> features, size_t max_rows) : content_(new Content) {
    content_->features = std::move(features);
    content_->max_rows = max_rows;
    content_->rows.resize(content_->features.size());
    content_->digests.resize(content_->features.size());
}
ReplicaRows::~ReplicaRows() = default;

const std::vector<ReplicaFeature>& ReplicaRows::features() const { return content_->features; }

void ReplicaRows::pool(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths, const int64_t* fids,
                       float* out, size_t stride, const size_t* columns) const {
    std::shared_lock lock(content_->mutex);
    for (size_t row = 0; row < num_rows; ++row)
        for (size_t k = 0; k < features.size(); ++k) {
            const ReplicaFeature& feature = content_->features[features[k]];
            const auto& rows = content_->rows[features[k]];
            const int32_t length = lengths ? lengths[row * features.size() + k] : 1;
            float* const sum = out + row * stride + columns[k];
            std::fill_n(sum, feature.dim, 0.0f);
            for (int32_t i = 0; i < length; ++i)
                if (const auto found = rows.find(*fids++); found != rows.end()) add(found->second.data(), feature, sum);
            if (feature.is_mean && length > 1)
                for (uint32_t d = 0; d < feature.dim; ++d) sum[d] /= static_cast<float>(length);
        }
}

void ReplicaRows::pool_by_feature(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths,
                                  const int64_t* fids, float* out, size_t stride, const size_t* columns) const {
    for (size_t k = 0; k < features.size(); ++k)
        for (size_t row = 0; row < num_rows; ++row) {
            const int32_t* const length = lengths ? lengths + k * num_rows + row : nullptr;
            pool(features.subspan(k, 1), 1, length, fids, out + row * stride, 0, columns + k);
            fids += length ? *length : 1;
        }
}

AssignStatus ReplicaRows::assign(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n) {
    const size_t size = content_->features[feature].row_bytes();
    const Encoding encoding = content_->features[feature].encoding;
    if (num_rows() + n > content_->max_rows) return AssignStatus::kFull;
    std::unique_lock lock(content_->mutex);
    for (size_t i = 0; i < n; ++i) {
        auto& row = content_->rows[feature][fids[i]];
        if (!row.empty()) content_->digests[feature] -= row_hash(fids[i], row.data(), size, encoding);
        row.assign(rows + i * size, rows + (i + 1) * size);
        content_->digests[feature] += row_hash(fids[i], row.data(), size, encoding);
    }
    return AssignStatus::kDone;
}

AssignStatus ReplicaRows::insert_all(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n, size_t) {
    return assign(feature, fids, rows, n);
}

void ReplicaRows::evict(size_t feature, const int64_t* fids, size_t n) {
    std::unique_lock lock(content_->mutex);
    auto& rows = content_->rows[feature];
    for (size_t i = 0; i < n; ++i)
        if (const auto found = rows.find(fids[i]); found != rows.end()) {
            content_->digests[feature] -=
                row_hash(fids[i], found->second.data(), found->second.size(), content_->features[feature].encoding);
            rows.erase(found);
        }
}

void ReplicaRows::read(size_t feature, const int64_t* fids, size_t n, uint8_t* rows, bool* found) const {
    std::shared_lock lock(content_->mutex);
    const size_t size = content_->features[feature].row_bytes();
    const auto& held = content_->rows[feature];
    for (size_t i = 0; i < n; ++i) {
        const auto row = held.find(fids[i]);
        if (found) found[i] = row != held.end();
        if (row != held.end())
            std::memcpy(rows + i * size, row->second.data(), size);
        else
            std::memset(rows + i * size, 0, size);
    }
}

uint64_t ReplicaRows::digest() const {
    std::shared_lock lock(content_->mutex);
    uint64_t sum = 0;
    for (size_t i = 0; i < content_->features.size(); ++i)
        if (const uint64_t digest = content_->digests[i]) {
            const std::string& name = content_->features[i].name;
            sum += mix(digest + crc32c(name.data(), name.size()));
        }
    return sum;
}

size_t ReplicaRows::num_rows() const {
    std::shared_lock lock(content_->mutex);
    size_t sum = 0;
    for (const auto& rows : content_->rows) sum += rows.size();
    return sum;
}

size_t ReplicaRows::num_bytes() const {
    std::shared_lock lock(content_->mutex);
    size_t sum = 0;
    for (size_t i = 0; i < content_->rows.size(); ++i)
        sum += content_->rows[i].size() * content_->features[i].row_bytes();
    return sum;
}

}  // namespace monolith
