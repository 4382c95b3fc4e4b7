// Under the lock that the bindings take, readers run beside each other and between writes; ThreadSanitizer watches.
#include <array>
#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "check.hpp"
#include "embedding_table.hpp"

namespace {

using namespace monolith;

constexpr uint32_t kDim = 64;
constexpr size_t kNum = 200;
constexpr int kSteps = 400;

struct Shared {
    EmbeddingTable table{TableSettings{kDim, Optimizer::kSgd, {1.0f}, 0, 3, 1, 10}};
    std::shared_mutex mutex;
    std::atomic<int> num_torn = 0;

    // Each step takes one from all weights of a row.
    void write() {
        std::array<int64_t, kNum> fids;
        std::array<uint32_t, kNum> rows;
        for (int64_t step = 0; step < kSteps; ++step) {
            for (size_t i = 0; i < kNum; ++i) fids[i] = step * 5 + static_cast<int64_t>(i);
            std::unique_lock lock(mutex);
            table.find_or_insert(fids.data(), kNum, step, rows.data());
            lock.unlock();
            lock.lock();
            table.update(rows.data(), kNum, [](uint32_t, float* sum) {
                for (uint32_t d = 0; d < kDim; ++d) sum[d] += 1;
            });
            table.evict(step);
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
        readers.emplace_back([&] {  // without a lock: the sanitizer would see any write
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

}  // namespace
