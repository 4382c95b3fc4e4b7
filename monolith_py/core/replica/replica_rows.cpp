#include "replica/replica_rows.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "bytes/crc32c.hpp"
#include "index/hash.hpp"
#include "kernels/kernels.hpp"
#include "replica/background.hpp"
#include "replica/feature_rows.hpp"
#include "replica/reader_epochs.hpp"

namespace monolith {

namespace {

// Unlinked rows and blocks, and the epoch in which they were unlinked.
struct Retired {
    uint64_t epoch;
    RowSlabs* slabs;
    Unlinked unlinked;
};

}  // namespace

struct ReplicaRows::Content {
    Content(std::vector<ReplicaFeature> of, size_t most)
        : features(std::move(of)), max_rows(std::min(most, kMostRows)) {}

    const std::vector<ReplicaFeature> features;
    const size_t max_rows;
    VersionedArena arena{size_t{1} << 26};
    std::vector<std::unique_ptr<RowSlabs>> slabs;
    std::vector<std::unique_ptr<FeatureRows>> rows;
    std::vector<ReplicaView> views;
    ReaderEpochs epochs;
    mutable std::mutex changing;  // of all below, and of slabs and rows
    std::deque<Retired> retired;
    Background background;

    RowSlabs& slabs_of(size_t row_bytes) {
        for (const auto& one : slabs)
            if (one->row_bytes() == row_bytes) return *one;
        return *slabs.emplace_back(std::make_unique<RowSlabs>(row_bytes, max_rows));
    }

    // Make ids and blocks that no reader can hold usable again.
    void reclaim() {
        const uint64_t oldest = retired.empty() ? 0 : epochs.oldest();
        for (; !retired.empty() && retired.front().epoch < oldest; retired.pop_front()) {
            Retired& one = retired.front();
            one.slabs->release(one.unlinked.rows);
            for (const BlockWord block : one.unlinked.blocks) arena.release(block.buckets(), block.num_buckets());
        }
    }
    void retire(RowSlabs& from, Unlinked unlinked) {
        if (unlinked.rows.empty() && unlinked.blocks.empty()) return;
        retired.push_back({epochs.advance(), &from, std::move(unlinked)});
    }

    bool has_room(const RowSlabs& in, size_t n) {
        if (in.num_free() < n) reclaim();
        size_t used = n - std::min(n, in.num_free());
        for (const auto& one : slabs) used += one->end();
        return used <= max_rows;
    }

    void pool(ReplicaPoolJob job) const {
        const auto stay = epochs.enter();
        job.views = views.data();
        kernels().replica.pool(job);
    }
};

ReplicaRows::ReplicaRows(std::vector<ReplicaFeature> features, size_t max_rows)
    : content_(new Content(std::move(features), max_rows)) {
    for (const ReplicaFeature& feature : content_->features) {
        RowSlabs& slabs = content_->slabs_of(feature.row_bytes());
        const FeatureRows& rows =
            *content_->rows.emplace_back(std::make_unique<FeatureRows>(content_->arena, slabs, feature.encoding));
        content_->views.push_back({rows.map(), slabs.slabs(), slabs.shift(), static_cast<uint32_t>(slabs.row_bytes()),
                                   feature.dim, feature.encoding, feature.is_mean});
    }
}
ReplicaRows::~ReplicaRows() = default;

const std::vector<ReplicaFeature>& ReplicaRows::features() const { return content_->features; }

void ReplicaRows::pool(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths, const int64_t* fids,
                       float* out, size_t stride, const size_t* columns) const {
    content_->pool({nullptr, features.data(), features.size(), num_rows, lengths, fids, out, stride, columns, false});
}

void ReplicaRows::pool_by_feature(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths,
                                  const int64_t* fids, float* out, size_t stride, const size_t* columns) const {
    content_->pool({nullptr, features.data(), features.size(), num_rows, lengths, fids, out, stride, columns, true});
}

AssignStatus ReplicaRows::assign(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n) {
    std::lock_guard lock(content_->changing);
    FeatureRows& of = *content_->rows[feature];
    RowSlabs& slabs = of.slabs();
    if (!content_->has_room(slabs, n)) return AssignStatus::kFull;
    std::vector<uint32_t> ids;
    slabs.allocate(n, ids);
    const size_t size = slabs.row_bytes();
    for (size_t i = 0; i < n; ++i) std::memcpy(slabs.at(ids[i]), rows + i * size, size);
    Unlinked unlinked;
    size_t done = 0;
    try {
        of.assign(fids, ids.data(), n, unlinked, done);
    } catch (const std::bad_alloc&) {
        content_->retire(slabs, std::move(unlinked));
        ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(done));
        slabs.release(ids);
        throw;
    }
    content_->retire(slabs, std::move(unlinked));
    return AssignStatus::kDone;
}

AssignStatus ReplicaRows::insert_all(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n,
                                     size_t num_threads, bool in_background) {
    std::lock_guard lock(content_->changing);
    FeatureRows& of = *content_->rows[feature];
    RowSlabs& slabs = of.slabs();
    if (!content_->has_room(slabs, n + slabs.num_free())) return AssignStatus::kFull;
    const NoPretouch no_pretouch(in_background);
    const auto first = static_cast<uint32_t>(slabs.append(n));
    std::vector<Unlinked> unlinked(std::max<size_t>(num_threads, 1));
    const size_t size = slabs.row_bytes(), parts = unlinked.size();
    const auto run = [&](auto&& task) {
        in_background ? content_->background.run(parts, task) : Background::run_threads(parts, 1, task);
    };
    run([&](size_t part) {
        for (size_t i = n * part / parts, end = n * (part + 1) / parts; i < end;) {
            const size_t num = std::min(end - i, slabs.num_beside(first + static_cast<uint32_t>(i)));
            std::memcpy(slabs.at(first + static_cast<uint32_t>(i)), rows + i * size, num * size);
            i += num;
        }
    });
    run([&](size_t part) { of.assign_part(fids, first, n, part, parts, unlinked[part]); });
    for (Unlinked& part : unlinked) content_->retire(slabs, std::move(part));
    return AssignStatus::kDone;
}

void ReplicaRows::evict(size_t feature, const int64_t* fids, size_t n) {
    std::lock_guard lock(content_->changing);
    FeatureRows& of = *content_->rows[feature];
    Unlinked unlinked;
    of.evict(fids, n, unlinked);
    content_->retire(of.slabs(), std::move(unlinked));
}

void ReplicaRows::read(size_t feature, const int64_t* fids, size_t n, uint8_t* rows, bool* found) const {
    const auto stay = content_->epochs.enter();
    const FeatureRows& of = *content_->rows[feature];
    const size_t size = of.slabs().row_bytes();
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* const row = of.find(fids[i]);
        if (found) found[i] = row != nullptr;
        if (row)
            std::memcpy(rows + i * size, row, size);
        else
            std::memset(rows + i * size, 0, size);
    }
}

uint64_t ReplicaRows::digest() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < content_->features.size(); ++i)
        if (const uint64_t digest = content_->rows[i]->digest()) {
            const std::string& name = content_->features[i].name;
            sum += mix(digest + crc32c(name.data(), name.size()));
        }
    return sum;
}

size_t ReplicaRows::num_rows() const {
    size_t sum = 0;
    for (const auto& rows : content_->rows) sum += rows->size();
    return sum;
}

size_t ReplicaRows::num_bytes() const {
    std::lock_guard lock(content_->changing);
    size_t sum = content_->arena.bytes();
    for (const auto& slabs : content_->slabs) sum += slabs->bytes();
    return sum;
}

}  // namespace monolith
