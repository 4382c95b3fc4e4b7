// Tests of the touched set: each change comes once, and again until it is acknowledged; a fid comes as a row or as
// evicted.
#include <map>

#include "check.hpp"
#include "table/touched_set.hpp"

namespace {

using namespace monolith;

// A touched set with its fids and rows.
struct World {
    TouchedSet touched;
    std::map<int64_t, uint32_t> rows;
    std::map<uint32_t, int64_t> fids;

    void insert(int64_t fid, uint32_t row) {
        rows[fid] = row;
        fids[row] = fid;
        touched.reserve(row + 1, 1);
        touched.cancel_eviction(fid);
        touched.touch(row);
    }
    void evict(int64_t fid) {
        touched.record_eviction(fid);
        touched.untouch(rows.at(fid));
        rows.erase(fid);
    }
    TouchedSet::Drained drain() {
        return touched.drain([&](int64_t fid) { return rows.contains(fid) ? rows.at(fid) : kNoRow; },
                             [&](uint32_t row) { return fids.at(row); });
    }
    bool drains(const std::vector<uint32_t>& expected, const std::vector<int64_t>& evicted) {
        const TouchedSet::Drained drained = drain();
        return drained.rows == expected && drained.evicted == evicted;
    }
    void drain_and_ack() { touched.ack(drain().ticket); }
};

TEST(an_acknowledged_row_is_not_drained_again) {
    World world;
    world.insert(70, 7);
    world.insert(20, 2);
    world.touched.touch(7);
    const TouchedSet::Drained first = world.drain();
    CHECK(first.rows == (std::vector<uint32_t>{2, 7}));
    world.touched.ack(first.ticket);
    CHECK(world.drains({}, {}));
}

TEST(unacknowledged_changes_come_again_with_later_ones) {
    World world;
    world.insert(70, 7);
    world.insert(20, 2);
    world.evict(20);
    CHECK(world.drains({7}, {20}));
    world.insert(30, 3);
    CHECK(world.drains({3, 7}, {20}));
    world.drain_and_ack();
    world.touched.touch(3);
    CHECK(world.drains({3}, {}));
}

TEST(a_change_after_the_drain_outlives_its_acknowledgement) {
    World world;
    world.insert(70, 7);
    const TouchedSet::Drained first = world.drain();
    world.touched.touch(7);
    world.touched.ack(first.ticket);
    CHECK(world.drains({7}, {}));
}

TEST(only_the_last_ticket_can_be_acknowledged_and_only_once) {
    World world;
    world.insert(70, 7);
    CHECK_THROWS(world.touched.ack(0), std::invalid_argument);
    const uint64_t first = world.drain().ticket, second = world.drain().ticket;
    CHECK(first != second);
    CHECK_THROWS(world.touched.ack(first), std::invalid_argument);
    world.touched.ack(second);
    CHECK_THROWS(world.touched.ack(second), std::invalid_argument);
}

TEST(a_row_recycled_before_the_drain_is_the_new_fids_and_the_old_one_is_evicted) {
    World world;
    world.insert(70, 7);
    world.drain_and_ack();
    world.touched.touch(7);
    world.evict(70);
    world.insert(71, 7);
    CHECK(world.drains({7}, {70}));
}

TEST(a_fid_inserted_again_is_a_row_and_no_tombstone) {
    World world;
    world.insert(70, 7);
    world.drain_and_ack();
    world.evict(70);
    world.insert(70, 4);
    CHECK(world.drains({4}, {}));
    world.evict(70);
    CHECK(world.drains({}, {70}));
    world.insert(70, 5);  // its tombstone is unacknowledged
    CHECK(world.drains({5}, {}));
    world.evict(70);  // its row is unacknowledged
    CHECK(world.drains({}, {70}));
}

TEST(rows_flagged_by_threads_are_drained_once) {
    World world;
    for (uint32_t row = 0; row < 100; ++row) world.insert(row * 10, row);
    world.drain_and_ack();
    const std::vector<uint32_t> one = {3, 50, 7}, two = {99, 4};
    std::vector<uint32_t> fresh(3);
    world.touched.touch(50);
    const size_t num = world.touched.flag(one.data(), one.size(), fresh.data());
    CHECK(num == 2);
    world.touched.append(fresh.data(), num);
    const size_t more = world.touched.flag(two.data(), two.size(), fresh.data());
    CHECK(more == 2);
    world.touched.append(fresh.data(), more);
    CHECK(world.drains({3, 4, 7, 50, 99}, {}));
}

TEST(pending_changes_survive_save_and_restore) {
    World world;
    world.insert(70, 7);
    world.insert(20, 2);
    world.insert(50, 5);
    world.evict(20);
    world.drain();
    world.touched.touch(7);
    world.insert(30, 3);
    world.evict(50);
    World restored;
    restored.rows = {{70, 0}, {30, 1}};
    restored.fids = {{0, 70}, {1, 30}};
    restored.touched.reserve(2, 0);
    restored.touched.restore(world.touched.pending([&](uint32_t row) { return world.fids.at(row); }),
                             world.touched.pending_evicted());
    CHECK(restored.drains({0, 1}, {20, 50}));
    restored.drain_and_ack();
    CHECK(restored.drains({}, {}));
}

}  // namespace
