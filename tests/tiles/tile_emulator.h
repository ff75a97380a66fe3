/*
 * Runs the tile instructions of AMX on processors without them: they raise SIGILL there, and the handler does their
 * work on tile registers of the thread's own and goes on behind them. So the machine code of the amx level is what is
 * run and checked. An instruction that a processor with tiles would refuse is reported on stderr; that one, and
 * whatever else raised the signal, is then left to the disposition that was there before.
 *
 * The handler runs on the thread's own stack: the system skips the red zone, and keeps the vector registers.
 */
#ifndef TILE_EMULATOR_H
#define TILE_EMULATOR_H

struct tile_file;

/**
 * From now on, in every thread; says so on stderr the first time. To be called again where others may have taken the
 * signal, as cmocka does before each test. @return 1; 0: this is no x86-64 processor.
 */
int tile_emulator_install(void);
/** 1: it has been. */
int tile_emulator_installed(void);
/** The calling thread's tile registers (tile_machine.h), for who does tile instructions without raising them. */
struct tile_file *tile_emulator_tiles(void);

#endif
