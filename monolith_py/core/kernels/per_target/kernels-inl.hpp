// The hot loops. Included by one source file for each instruction set, which names the result; nothing in these headers
// may be shared with other files, or the linker could give a machine code that it cannot run.
#include "kernels/per_target/interaction-inl.hpp"
#include "kernels/per_target/lookup-inl.hpp"
#include "kernels/per_target/pool-inl.hpp"
#include "kernels/per_target/row-inl.hpp"
#include "kernels/per_target/tower-inl.hpp"
#include "kernels/per_target/tower_backward-inl.hpp"
#include "kernels/per_target/tower_forward-inl.hpp"
#include "kernels/per_target/tower_update-inl.hpp"
#include "kernels/per_target/update-inl.hpp"

namespace monolith {

extern const Kernels MONOLITH_KERNELS;
const Kernels MONOLITH_KERNELS = {
    find,
    sight,
    gather,
    pool,
    sort_rows,
    update,
    start_row,
    all_bounded,
    encode,
    factorize,
    factorize_back,
    dots,
    dots_back,
    {tower_pack, tower_unpack, tower_forward, tower_forward_rows, tower_backward, tower_mask, tower_gradients,
     tower_add, tower_round, tower_adam, tower_adagrad, tower_taylor}};

}  // namespace monolith
