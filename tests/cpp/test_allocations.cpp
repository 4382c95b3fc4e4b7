// Every allocation of every operation fails once: the table stays whole and goes on.
#include <functional>
#include <memory>
#include <numeric>
#include <set>

#include "check.hpp"
#include "failing_allocations.hpp"
#include "table/pooled.hpp"
#include "table_settings.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;
using check::FailingAllocation;

constexpr uint32_t kDim = 4;
constexpr int64_t kNum = 300;

std::vector<int64_t> range(int64_t begin, int64_t end) {
    std::vector<int64_t> fids(static_cast<size_t>(end - begin));
    std::iota(fids.begin(), fids.end(), begin);
    return fids;
}

// A table with rows, candidates, two consumers, freed rows and tracked changes.
struct Case {
    EmbeddingTable table;
    explicit Case(uint32_t admit_after, Eviction eviction = Eviction::kNone) : table(settings(admit_after, eviction)) {
        std::vector<int64_t> fids = range(0, kNum);
        std::vector<uint32_t> rows(fids.size());
        for (uint32_t i = 0; i < admit_after; ++i) table.find_or_insert(fids.data(), fids.size(), 0, rows.data());
        table.drain("first");
        table.ack("second", table.drain("second").ticket);
        table.content().changes.start_tracking();
        fids = range(kNum / 2, kNum + 40);
        rows.resize(fids.size());
        table.find_or_insert(fids.data(), fids.size(), 20, rows.data());
        table.evict(20, 200);
    }
    static TableSettings settings(uint32_t admit_after, Eviction eviction) {
        TableSettings settings = check::settings_of(kDim, Optimizer::kAdagrad, 0.1f, 0.5f, admit_after, 10);
        settings.eviction = eviction;
        settings.budget_bytes = 6'000;
        settings.half_life_s = 100;
        return settings;
    }
};

// Every change since the acknowledged drain reaches the consumer in spite of the failures.
void check_changes(EmbeddingTable& table, const std::string& consumer, const std::set<int64_t>& changed) {
    const TouchedSet::Drained drained = table.drain(consumer);
    std::set<int64_t> got(drained.evicted.begin(), drained.evicted.end());
    for (uint32_t row : drained.rows) got.insert(table.fid(row));
    for (int64_t fid : changed) CHECK(got.contains(fid));
}

// Run `operation` on fresh tables, with its first allocation failing, then its second, and so on until none fails.
size_t fail_each(uint32_t admit_after, Eviction eviction, const std::function<void(EmbeddingTable&)>& operation) {
    for (size_t count = 0;; ++count) {
        Case one(admit_after, eviction);
        const size_t rows_before = one.table.num_rows();
        bool failed = false;
        {
            const FailingAllocation failing(count);
            try {
                operation(one.table);
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
                CHECK(failing.has_failed());
            }
            failed = failing.has_failed();
        }
        check::whole(one.table);
        operation(one.table);  // it goes on
        check::whole(one.table);
        one.table.evict(1'000, 0);
        check::whole(one.table);
        CHECK(one.table.num_rows() == 0 || rows_before == 0);
        if (!failed) return count;
        CHECK(count < 5'000);
    }
}

void insert_many(EmbeddingTable& table) {
    std::vector<int64_t> fids = range(kNum, 3 * kNum);
    fids.insert(fids.end(), fids.begin(), fids.end());
    std::vector<uint32_t> rows(fids.size());
    table.find_or_insert(fids.data(), fids.size(), 25, rows.data());
}

TEST(a_table_is_whole_after_a_failed_insertion) {
    for (uint32_t admit_after : {1u, 2u, 3u}) CHECK(fail_each(admit_after, Eviction::kNone, insert_many) > 10);
    CHECK(fail_each(1, Eviction::kLru, insert_many) > 10);
}

TEST(a_table_is_whole_after_a_failed_update_and_no_change_is_lost) {
    for (size_t count = 0;; ++count) {
        Case one(1);
        one.table.ack("first", one.table.drain("first").ticket);
        std::vector<int64_t> fids = range(kNum / 2, kNum);
        std::vector<uint32_t> rows(fids.size());
        std::vector<float> gradients(fids.size() * kDim, 1.0f);
        one.table.find(fids.data(), fids.size(), rows.data());
        const std::vector<float> before(one.table.weights(rows[0]), one.table.weights(rows[0]) + kDim);
        bool failed = false;
        {
            const FailingAllocation failing(count);
            try {
                one.table.update(rows.data(), rows.size(), {gradients.data(), kDim, nullptr, nullptr});
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
                CHECK(std::equal(before.begin(), before.end(), one.table.weights(rows[0])));
            }
            failed = failing.has_failed();
        }
        check::whole(one.table);
        if (!failed) {
            check_changes(one.table, "first", {fids.begin(), fids.end()});
            return;
        }
    }
}

TEST(a_table_is_whole_after_a_failed_eviction_and_no_tombstone_is_lost) {
    CHECK(fail_each(2, Eviction::kNone, [](EmbeddingTable& table) { table.evict(100, 0); }) > 5);
    for (size_t count = 0; count < 400; ++count) {
        Case one(1);
        one.table.ack("first", one.table.drain("first").ticket);
        {
            const FailingAllocation failing(count);
            try {
                one.table.evict(1'000, 0);
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
            }
        }
        std::set<int64_t> gone;
        for (int64_t fid : range(kNum / 2, kNum)) {
            uint32_t row;
            one.table.find(&fid, 1, &row);
            if (row == kNoRow) gone.insert(fid);
        }
        check_changes(one.table, "first", gone);
    }
}

TEST(a_failed_drain_loses_no_change) {
    for (const char* consumer : {"first", "second", "new"})
        for (size_t count = 0;; ++count) {
            Case one(1), same(1);
            bool failed = false;
            {
                const FailingAllocation failing(count);
                try {
                    one.table.drain(consumer);
                } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
                }
                failed = failing.has_failed();
            }
            check::whole(one.table);
            const TouchedSet::Drained got = one.table.drain(consumer), expected = same.table.drain(consumer);
            CHECK(got.rows == expected.rows && got.evicted == expected.evicted);
            if (!failed) break;
        }
}

TEST(every_table_of_a_batch_is_whole_after_a_failed_look_up) {
    for (size_t count = 0;; ++count) {
        Case first(1), second(2);
        const std::vector<Feature> features = {
            {&first.table, Pooling::kSum, 0}, {&second.table, Pooling::kSum, 0}, {&first.table, Pooling::kMean, 0}};
        const std::vector<int64_t> one = range(kNum, 2 * kNum);
        std::vector<int64_t> fids, offsets = {0};
        for (int64_t f = 1; f <= 3; ++f) {
            fids.insert(fids.end(), one.begin(), one.end());
            offsets.push_back(f * kNum);
        }
        std::vector<float> pooled(3 * kDim);
        std::vector<uint32_t> rows(fids.size());
        const Batch batch{features, offsets.data(), nullptr, 1, 3 * kDim};
        bool failed = false;
        {
            const FailingAllocation failing(count);
            try {
                pooled_forward(batch, fids.data(), 25, {true, true, true}, pooled.data(), rows.data());
                pooled_backward(batch, rows.data(), pooled.data());
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
            }
            failed = failing.has_failed();
        }
        check::whole(first.table);
        check::whole(second.table);
        if (!failed) return;
        CHECK(count < 5'000);
    }
}

TEST(a_failed_restore_leaves_a_whole_table) {
    const check::TemporaryFile file;
    Case saved(2);
    check::save(saved.table, file.path());
    for (size_t count = 0;; ++count) {
        EmbeddingTable table(Case::settings(2, Eviction::kNone));
        bool failed = false;
        {
            const FailingAllocation failing(count);
            try {
                restore(table, file.path(), {});
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
            }
            failed = failing.has_failed();
        }
        check::whole(table);
        if (!failed) {
            CHECK(check::content_of(table) == check::content_of(saved.table));
            return;
        }
    }
}

TEST(a_table_is_whole_after_a_failed_save_and_the_next_one_holds_all) {
    const check::TemporaryFile file;
    for (size_t count = 0;; ++count) {
        Case one(2);
        const std::string before = check::content_of(one.table);
        bool failed = false;
        {
            const FailingAllocation failing(count);
            try {
                check::save(one.table, file.path());
            } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): the fault is what is tested
            }
            failed = failing.has_failed();
        }
        check::whole(one.table);
        one.table.stop_tracking();  // as the binding does: no increment can follow
        check::save(one.table, file.path());
        EmbeddingTable restored(Case::settings(2, Eviction::kNone));
        restore(restored, file.path(), {});
        CHECK(check::content_of(one.table) == before && check::content_of(restored) == before);
        if (!failed) return;
    }
}

// Rows of fids with a row, of candidates and of new fids, some of them twice.
void assign_many(EmbeddingTable& table) {
    std::vector<int64_t> fids = range(kNum - 50, 2 * kNum);
    fids.insert(fids.end(), fids.begin(), fids.begin() + 20);
    const std::vector<float> weights(fids.size() * kDim, 0.5f);
    table.assign({fids.data(), fids.size(), weights.data(), nullptr, nullptr, nullptr}, 25);
}

TEST(a_table_is_as_before_after_a_failed_assignment) {
    for (uint32_t admit_after : {1u, 3u}) CHECK(fail_each(admit_after, Eviction::kNone, assign_many) > 5);
    for (size_t count = 0;; ++count) {
        Case one(3);
        const std::string before = check::content_of(one.table);
        bool failed = false, has_thrown = false;
        {
            const FailingAllocation failing(count);
            try {
                assign_many(one.table);
            } catch (const std::bad_alloc&) {
                has_thrown = true;
            }
            failed = failing.has_failed();
        }
        check::whole(one.table);
        if (has_thrown) CHECK(check::content_of(one.table) == before);
        if (!failed) return;
    }
}

TEST(a_table_is_whole_after_a_failed_removal) {
    const auto remove_some = [](EmbeddingTable& table) {
        const std::vector<int64_t> fids = range(kNum / 2, 2 * kNum);
        table.remove(fids.data(), fids.size());
    };
    CHECK(fail_each(2, Eviction::kNone, remove_some) > 5);
    CHECK(fail_each(2, Eviction::kNone, [](EmbeddingTable& table) { table.clear(); }) > 5);
}

// Sightings of one fid take one row, however many they are.
TEST(memory_follows_rows_and_not_sightings) {
    EmbeddingTable table(check::settings_of(64, Optimizer::kAdagrad, 0.1f, 0.5f));
    const std::vector<int64_t> fids(500'000, 7);
    std::vector<uint32_t> rows(fids.size());
    table.find_or_insert(fids.data(), fids.size(), 0, rows.data());
    CHECK(table.end_row() == 1);
    CHECK(table.stats().at("bytes") < 1'000'000);  // one row for each sighting would take 256 MB
    CHECK(rows.front() == 0 && rows.back() == 0);
}

}  // namespace
