--- The target allows no local files.
-- table p: id int key, v int
-- settings: no_load
-- insert p (1, 10), (2, 20), (3, 30)

INSERT INTO `p` (`id`,`v`) VALUES (1,10),(2,20),(3,30);
