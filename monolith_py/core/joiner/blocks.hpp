// The stored form of the waiting requests: each step writes one block or more with the state of the requests that it
// changed. Read in the order of their numbers, the blocks give the state; the impressions are in the log. The oldest
// block is deleted once no request needs it.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "joiner/waiting.hpp"

namespace monolith::joiner {

struct BlockError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Blocks {
  public:
    struct Changes {
        std::vector<std::pair<uint32_t, std::string>> puts;  // number and bytes
        std::vector<uint32_t> deletes;
        uint32_t first = 0, stop = 0;  // of the blocks that the store has afterwards
    };

    // Fill `waiting` from blocks in the order of their numbers, then call `restored`. Labels are carried over by the
    // names of the tasks. Throws BlockError if the block has another version or is cut.
    void restore(uint32_t number, std::string_view value, const Rules& rules, WaitingRequests& waiting);
    void restored(WaitingRequests& waiting);
    // Return the blocks that the step of `waiting` adds and those that it makes superfluous.
    Changes changes(const WaitingRequests& waiting, const Rules& rules);
    // Note that the result of the last `changes` is stored; to be called before the step of `waiting` is cleared.
    void stored(const WaitingRequests& waiting);

  private:
    struct Placed {
        Request* request;
        uint32_t number;
    };
    void release(uint32_t number);

    uint32_t next_ = 1;
    std::map<uint32_t, uint64_t> references_;              // of requests to each stored block
    std::vector<Placed> placed_;                           // what the last `changes` wrote, and where
    uint32_t num_puts_ = 0;                                // of the last `changes`
    std::vector<uint32_t> deletes_;                        // of the last `changes`
    std::vector<std::pair<int64_t, uint32_t>> forgotten_;  // while blocks are restored: offset, and block that says so
};

}  // namespace monolith::joiner
