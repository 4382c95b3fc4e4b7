// Readers of a replica's rows beside a writer that updates, evicts and grows: no row is torn, foreign or lost.
#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "index/concurrent_id_map.hpp"
#include "kernels/kernels.hpp"
#include "replica/reader_epochs.hpp"
#include "replica/replica_rows.hpp"

namespace {

using namespace monolith;

constexpr uint32_t kDim = 20;
constexpr int64_t kLasting = 300, kPassing = 300;  // fids that always have a row, and those that come and go
constexpr int kSteps = 300;

// A row holds its fid in the first column, the step of its writing in all others.
std::vector<float> rows_of(const std::vector<int64_t>& fids, int step) {
    std::vector<float> rows;
    for (const int64_t fid : fids) {
        rows.push_back(static_cast<float>(fid));
        rows.insert(rows.end(), kDim - 1, static_cast<float>(step));
    }
    return rows;
}

void assign(ReplicaRows& rows, const std::vector<int64_t>& fids, int step, bool at_once = false) {
    const std::vector<float> weights = rows_of(fids, step);
    const auto* const bytes = reinterpret_cast<const uint8_t*>(weights.data());
    const AssignStatus status = at_once ? rows.insert_all(0, fids.data(), bytes, fids.size(), 2)
                                        : rows.assign(0, fids.data(), bytes, fids.size());
    CHECK(status == AssignStatus::kDone);
}

std::vector<int64_t> fids_between(int64_t begin, int64_t end) {
    std::vector<int64_t> fids;
    for (int64_t fid = begin; fid < end; ++fid) fids.push_back(fid);
    return fids;
}

struct Hammer {
    ReplicaRows rows{{{"a", kDim, Encoding::kFp32, false}}};
    std::atomic<bool> done{false};
    std::atomic<int> num_wrong{0}, num_reads{0};

    void read() {
        const std::vector<int64_t> fids = fids_between(1, 1 + kLasting + kPassing);
        const std::array<uint32_t, 1> features = {0};
        const std::array<size_t, 1> columns = {0};
        std::vector<float> pooled(fids.size() * kDim);
        while (!done) {
            rows.pool(features, fids.size(), nullptr, fids.data(), pooled.data(), kDim, columns.data());
            for (size_t i = 0; i < fids.size(); ++i) {
                const float* const row = &pooled[i * kDim];
                const bool is_there = row[0] != 0;
                if (is_there ? row[0] != static_cast<float>(fids[i]) : fids[i] <= kLasting) ++num_wrong;
                for (uint32_t d = 2; d < kDim; ++d) num_wrong += row[d] != row[1];
                if (!is_there && row[1] != 0) ++num_wrong;
            }
            ++num_reads;
        }
    }

    void write() {
        std::mt19937 random(1);
        for (int step = 1; step < kSteps; ++step) {
            std::vector<int64_t> lasting, passing;
            for (int64_t fid = 1; fid <= kLasting; ++fid)
                if (random() % 2) lasting.push_back(fid);
            for (int64_t fid = kLasting + 1; fid <= kLasting + kPassing; ++fid)
                if (random() % 2) passing.push_back(fid);
            assign(rows, lasting, step);
            if (step % 2)
                rows.evict(0, passing.data(), passing.size());
            else
                assign(rows, passing, step, step % 4 == 0);
            // Growth, and entries that are displaced by others.
            assign(rows, fids_between(10'000 + step * 50, 10'050 + step * 50), step);
        }
    }
};

void hammer() {
    Hammer hammer;
    assign(hammer.rows, fids_between(1, 1 + kLasting), 0);
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; ++i) readers.emplace_back([&] { hammer.read(); });
    while (hammer.num_reads < 2) std::this_thread::yield();
    hammer.write();
    hammer.done = true;
    for (std::thread& reader : readers) reader.join();
    CHECK(hammer.num_wrong == 0);
}

TEST(readers_of_replica_rows_see_no_torn_foreign_or_lost_row) {
    const std::string level = simd_level();
    for (const std::string& one : simd_levels()) {
        set_simd_level(one);
        hammer();
    }
    set_simd_level(level);
}

// Entries of one crowded block move between their two buckets with almost every insertion; one that is read while it
// moves is found in either of them, with its row.
TEST(entries_are_found_while_they_move) {
    constexpr size_t kStaying = 60, kAll = 400;
    VersionedArena arena;
    ConcurrentIdMap map(arena);
    OutgrownBlocks outgrown;
    std::vector<int64_t> fids;  // of the first block
    for (int64_t fid = 1; fids.size() < kAll; ++fid)
        if (ConcurrentMapView::block_of(hash_fid(fid)) == 0) fids.push_back(fid);
    for (size_t i = 0; i < kStaying; ++i) map.assign(fids[i], static_cast<uint32_t>(fids[i]), outgrown);
    const size_t num_slots = map.view().block(hash_fid(fids[0])).num_buckets() * size_t{VersionedBucket::kSlots};
    const size_t most = num_slots * 9 / 10;  // the block stays as it is

    std::atomic<bool> done{false};
    std::atomic<int> num_wrong{0}, num_rounds{0};
    std::thread reader([&] {
        while (!done) {
            for (size_t i = 0; i < kStaying; ++i) num_wrong += map.find(fids[i]) != static_cast<uint32_t>(fids[i]);
            for (size_t i = kStaying; i < kAll; ++i) {
                const uint32_t row = map.find(fids[i]);
                num_wrong += row != kNoRow && row != static_cast<uint32_t>(fids[i]);
            }
            ++num_rounds;
        }
    });
    while (num_rounds == 0) std::this_thread::yield();
    std::mt19937 random(1);
    std::vector<int64_t> passing;
    for (int step = 0; step < 400'000; ++step) {
        const int64_t fid = fids[kStaying + random() % (kAll - kStaying)];
        if (map.find(fid) == kNoRow) {
            map.assign(fid, static_cast<uint32_t>(fid), outgrown);
            passing.push_back(fid);
        }
        if (kStaying + passing.size() < most) continue;
        std::swap(passing[random() % passing.size()], passing.back());
        map.erase(passing.back());
        passing.pop_back();
    }
    done = true;
    reader.join();
    CHECK(num_wrong == 0);
}

TEST(what_a_reader_may_hold_is_not_free) {
    ReaderEpochs epochs;
    const uint64_t before = epochs.advance();
    CHECK(before < epochs.oldest());
    {
        const auto stay = epochs.enter();
        const uint64_t tag = epochs.advance();
        CHECK(before < epochs.oldest());
        CHECK(tag >= epochs.oldest());
        const auto later = epochs.enter();
        CHECK(tag >= epochs.oldest());
    }
    CHECK(epochs.oldest() > before + 1);
}

}  // namespace
