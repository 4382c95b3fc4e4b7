// Tests of a replica's rows: pooled bags against sums computed from a std::map.
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "check.hpp"
#include "failing_allocations.hpp"
#include "kernels/kernels.hpp"
#include "replica/replica_rows.hpp"
#include "table/row_digest.hpp"

namespace {

using namespace monolith;

const std::vector<ReplicaFeature> kFeatures = {
    {"a", 8, Encoding::kFp32, false}, {"b", 16, Encoding::kFp32, true}, {"c", 5, Encoding::kFp32, false}};
constexpr size_t kStride = 40, kNum = 3;
constexpr std::array<size_t, kNum> kColumns = {20, 0, 30};
constexpr std::array<uint32_t, kNum> kAll = {0, 1, 2};

using Model = std::array<std::map<int64_t, std::vector<float>>, kNum>;

void put(ReplicaRows& rows, Model& model, size_t feature, const std::vector<int64_t>& fids, float value) {
    const uint32_t dim = kFeatures[feature].dim;
    std::vector<float> weights;
    for (const int64_t fid : fids) {
        auto& row = model[feature][fid];
        row.clear();
        for (uint32_t d = 0; d < dim; ++d) row.push_back(value + static_cast<float>(d));
        weights.insert(weights.end(), row.begin(), row.end());
        value += 100;
    }
    const auto* const bytes = reinterpret_cast<const uint8_t*>(weights.data());
    CHECK(rows.assign(feature, fids.data(), bytes, fids.size()) == AssignStatus::kDone);
}

void check_pooled(const ReplicaRows& rows, const Model& model, std::mt19937& random, size_t num_rows) {
    std::vector<int32_t> lengths(num_rows * kNum), by_feature(num_rows * kNum);
    std::vector<std::vector<int64_t>> bags;
    for (int32_t& length : lengths) {
        length = static_cast<int32_t>(random() % 3);
        std::vector<int64_t>& bag = bags.emplace_back();
        for (int32_t i = 0; i < length; ++i) bag.push_back(static_cast<int64_t>(random() % 60));
    }
    std::vector<int64_t> fids, fids_by_feature;
    for (const auto& bag : bags) fids.insert(fids.end(), bag.begin(), bag.end());
    for (size_t k = 0; k < kNum; ++k)
        for (size_t row = 0; row < num_rows; ++row) {
            const auto& bag = bags[row * kNum + k];
            by_feature[k * num_rows + row] = lengths[row * kNum + k];
            fids_by_feature.insert(fids_by_feature.end(), bag.begin(), bag.end());
        }
    std::vector<float> pooled(num_rows * kStride, -1), other(num_rows * kStride, -1);
    rows.pool(kAll, num_rows, lengths.data(), fids.data(), pooled.data(), kStride, kColumns.data());
    rows.pool_by_feature(kAll, num_rows, by_feature.data(), fids_by_feature.data(), other.data(), kStride,
                         kColumns.data());
    CHECK(pooled == other);
    for (size_t row = 0; row < num_rows; ++row)
        for (size_t k = 0; k < kNum; ++k)
            for (uint32_t d = 0; d < kFeatures[k].dim; ++d) {
                float sum = 0;
                for (const int64_t fid : bags[row * kNum + k])
                    if (const auto found = model[k].find(fid); found != model[k].end()) sum += found->second[d];
                const size_t size = bags[row * kNum + k].size();
                if (kFeatures[k].is_mean && size > 1) sum /= static_cast<float>(size);
                CHECK(std::abs(pooled[row * kStride + kColumns[k] + d] - sum) <= 1e-6f * std::abs(sum));
            }
}

void pool_like_a_map() {
    ReplicaRows rows(kFeatures);
    Model model;
    std::mt19937 random(1);
    for (int step = 0; step < 60; ++step) {
        const size_t feature = random() % kNum;
        std::vector<int64_t> fids;
        for (size_t i = 0; i < 1 + random() % 20; ++i) fids.push_back(static_cast<int64_t>(random() % 60));
        if (step % 4 == 3) {
            rows.evict(feature, fids.data(), fids.size());
            for (const int64_t fid : fids) model[feature].erase(fid);
        } else {
            put(rows, model, feature, fids, static_cast<float>(step));
        }
        check_pooled(rows, model, random, 1 + random() % 90);
    }
    CHECK(rows.num_rows() == model[0].size() + model[1].size() + model[2].size());
}

TEST(replica_rows_pool_like_a_map) {
    const std::string level = simd_level();
    for (const std::string& one : simd_levels()) {
        set_simd_level(one);
        pool_like_a_map();
    }
    set_simd_level(level);
}

TEST(many_rows_at_once_are_as_one_by_one) {
    const std::vector<ReplicaFeature> features = {{"a", 3, Encoding::kInt8, false}};
    const size_t size = features[0].row_bytes();
    ReplicaRows one(features), all(features);
    std::mt19937_64 random(2);
    for (const size_t n : {size_t{0}, size_t{1}, size_t{5000}, size_t{3000}}) {
        std::vector<int64_t> fids(n);
        std::vector<uint8_t> rows(n * size), read(n * size);
        for (int64_t& fid : fids) fid = static_cast<int64_t>(random() % 4000);  // some come twice
        for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random());
        CHECK(one.assign(0, fids.data(), rows.data(), n) == AssignStatus::kDone);
        CHECK(all.insert_all(0, fids.data(), rows.data(), n, 3) == AssignStatus::kDone);
        CHECK(one.num_rows() == all.num_rows());
        CHECK(one.digest() == all.digest());
        one.read(0, fids.data(), n, rows.data(), nullptr);
        all.read(0, fids.data(), n, read.data(), nullptr);
        CHECK(rows == read);
    }
}

TEST(replica_rows_that_are_too_many_change_nothing) {
    ReplicaRows rows({{"a", 1, Encoding::kFp32, false}}, 3);
    const std::array<int64_t, 4> fids = {1, 2, 3, 4};
    const std::array<float, 4> weights = {1, 2, 3, 4};
    const auto* const bytes = reinterpret_cast<const uint8_t*>(weights.data());
    CHECK(rows.assign(0, fids.data(), bytes, 2) == AssignStatus::kDone);
    const uint64_t digest = rows.digest();
    CHECK(rows.assign(0, fids.data() + 2, bytes, 2) == AssignStatus::kFull);
    CHECK(rows.num_rows() == 2);
    CHECK(rows.digest() == digest);
}

// Digest and number of rows are those of the rows that are found.
void check_whole(const ReplicaRows& rows, const std::vector<int64_t>& fids) {
    std::vector<uint8_t> bytes(fids.size() * 4);
    const std::unique_ptr<bool[]> found(new bool[fids.size()]);
    rows.read(0, fids.data(), fids.size(), bytes.data(), found.get());
    size_t num = 0;
    uint64_t digest = 0;
    for (size_t i = 0; i < fids.size(); ++i) {
        if (!found[i]) continue;
        ++num;
        digest += rows_digest(&fids[i], &bytes[4 * i], 1, 4, Encoding::kFp32);
    }
    CHECK(rows.num_rows() == num);
    CHECK(rows.digest() == (digest ? mix(digest + crc32c("a", 1)) : 0));
}

TEST(replica_rows_are_whole_after_each_failed_allocation) {
    std::vector<int64_t> fids(400);
    std::vector<float> weights(fids.size());
    for (size_t i = 0; i < fids.size(); ++i) {
        fids[i] = static_cast<int64_t>(i) * 7 - 90;
        weights[i] = static_cast<float>(i) + 1;
    }
    const auto* const bytes = reinterpret_cast<const uint8_t*>(weights.data());
    bool has_failed = true;
    for (size_t count = 0; has_failed; ++count) {
        ReplicaRows rows({{"a", 1, Encoding::kFp32, false}});
        CHECK(rows.assign(0, fids.data(), bytes + 4, 150) == AssignStatus::kDone);
        {
            check::FailingAllocation failing(count);
            try {
                rows.assign(0, fids.data() + 50, bytes, 350);
                rows.evict(0, fids.data(), 120);
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
            }
            has_failed = failing.has_failed();
        }
        check_whole(rows, fids);
        CHECK(rows.assign(0, fids.data(), bytes, fids.size()) == AssignStatus::kDone);
        CHECK(rows.num_rows() == fids.size());
        check_whole(rows, fids);
    }
}

}  // namespace
