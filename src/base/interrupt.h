// Ctrl-C and SIGTERM: the first asks the work to save and leave, the second leaves at once.
#pragma once

namespace minke {

// From now on the first signal only sets what interrupted() reads; a second one ends the process
// with exit code 130. A command that never calls this is ended by the first, as usual.
void catch_interrupts();

// True once a signal came. Loops ask this between steps.
bool interrupted();

}  // namespace minke
