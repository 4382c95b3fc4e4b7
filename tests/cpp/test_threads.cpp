// Tests of concurrency, under ThreadSanitizer: readers and a writer with the lock that the bindings take.
#include <array>
#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "table_settings.hpp"

namespace {

using namespace monolith;

constexpr uint32_t kDim = 64;
constexpr size_t kNum = 200;
constexpr int kSteps = 400;

struct Shared {
    EmbeddingTable table{check::settings_of(kDim, Optimizer::kSgd, 1.0f, 0, 1, 10)};
    std::shared_mutex mutex;
    std::atomic<int> num_torn = 0;

    // Each step subtracts one from all weights of a row.
    void write() {
        std::array<int64_t, kNum> fids;
        std::vector<uint32_t> rows(kNum);
        for (int64_t step = 0; step < kSteps; ++step) {
            for (size_t i = 0; i < kNum; ++i) fids[i] = step * 5 + static_cast<int64_t>(i);
            std::unique_lock lock(mutex);
            table.find_or_insert(fids.data(), kNum, step, rows.data());
            lock.unlock();
            lock.lock();
            check::update(table, rows, [](uint32_t, float* sum) {
                for (uint32_t d = 0; d < kDim; ++d) sum[d] += 1;
            });
            table.evict(step, 0);
            if (step % 3 == 0) table.ack("replicas", table.drain("replicas").ticket);
        }
    }

    void read() {
        std::array<int64_t, kNum> fids;
        std::array<uint32_t, kNum> rows;
        std::vector<float> weights(kNum * kDim);
        for (int64_t step = 0; step < kSteps; ++step) {
            for (size_t i = 0; i < kNum; ++i) fids[i] = step * 5 + static_cast<int64_t>(i);
            {
                std::shared_lock lock(mutex);
                table.find(fids.data(), kNum, rows.data());
            }
            std::shared_lock lock(mutex);
            table.gather(rows.data(), kNum, weights.data());
            lock.unlock();
            for (size_t i = 0; i < kNum; ++i)
                for (uint32_t d = 1; d < kDim; ++d) num_torn += weights[i * kDim + d] != weights[i * kDim];
        }
    }
};

TEST(readers_beside_a_writer_read_whole_rows) {
    Shared shared;
    std::thread writer([&] { shared.write(); }), one([&] { shared.read(); }), two([&] { shared.read(); });
    writer.join();
    one.join();
    two.join();
    CHECK(shared.num_torn == 0);
    CHECK(shared.table.stats().at("evicted") > 1'000);
    shared.read();
    CHECK(shared.num_torn == 0);
}

TEST(finding_and_gathering_write_nothing_so_readers_may_run_at_once) {
    Shared shared;
    shared.write();
    const EmbeddingTable& table = shared.table;
    std::vector<int64_t> fids(kNum);
    for (size_t i = 0; i < kNum; ++i) fids[i] = kSteps * 5 - 5 + static_cast<int64_t>(i);
    std::array<std::vector<float>, 3> weights;
    std::vector<std::thread> readers;
    for (auto& mine : weights)
        readers.emplace_back([&] {  // no lock: the sanitizer would report any write
            std::vector<uint32_t> rows(kNum);
            mine.resize(kNum * kDim);
            for (int turn = 0; turn < 50; ++turn) {
                table.find(fids.data(), kNum, rows.data());
                table.gather(rows.data(), kNum, mine.data());
            }
        });
    for (std::thread& reader : readers) reader.join();
    CHECK(weights[0][0] < 0);
    CHECK(weights[0] == weights[1] && weights[1] == weights[2]);
}

TEST(the_pool_runs_each_task_once_for_callers_that_come_at_the_same_time) {
    ThreadPool& pool = ThreadPool::instance();
    pool.set_num_threads(3);
    std::vector<std::thread> callers;
    std::atomic<int> num_wrong = 0;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (int turn = 0; turn < 200; ++turn) {
                std::vector<std::atomic<int>> runs(17);
                pool.run(runs.size(), [&](size_t i) { ++runs[i]; });
                for (const auto& count : runs) num_wrong += count != 1;
            }
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(num_wrong == 0);
    CHECK_THROWS(pool.run(9,
                          [](size_t i) {
                              if (i == 5) throw std::length_error("full");
                          }),
                 std::length_error);
    pool.set_num_threads(1);
}

TEST(parts_of_one_batch_run_together_and_readers_wait) {
    ThreadPool::instance().set_num_threads(2);
    EmbeddingTable table(check::settings_of(16, Optimizer::kRowwiseAdagrad, 0.1f, 0.5f, 1, 100));
    table.drain("replicas");
    std::vector<int64_t> fids(40'000);
    std::vector<uint32_t> rows(fids.size());
    for (int64_t step = 0; step < 6; ++step) {
        for (size_t i = 0; i < fids.size(); ++i) fids[i] = static_cast<int64_t>(i * 7 % 30'000) + step * 10'000;
        table.find_or_insert(fids.data(), fids.size(), step, rows.data());
        check::update(table, rows, [](uint32_t i, float* sum) { sum[i % 16] += 1; });
        table.drain("replicas");
    }
    CHECK(table.num_rows() == 80'000);
    ThreadPool::instance().set_num_threads(1);
}

}  // namespace
