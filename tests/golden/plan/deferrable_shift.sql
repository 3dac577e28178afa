--- A key that the source may defer: what moves is parked first, whatever the order of its rows; what does not stays.
-- table t: id int key, pos int unique deferrable, v int
-- settings: partial
-- update t (1, 1, 0), (2, 2, 0) -> (1, 2, 0), (2, 3, 0)
-- update t (4, 4, 0) -> (4, 4, 1)
-- insert t (5, 1, 0)

UPDATE (VALUES ROW(1,-1610612736),ROW(2,-1610612735)) AS n(c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`pos`=n.c1;
DO IF(ROW_COUNT()=2,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(1,2,0),ROW(2,3,0),ROW(4,4,1)) AS n(c0,c1,c2) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`pos`=n.c1,t.`v`=n.c2;
DO IF(ROW_COUNT()=3,0,(SELECT 1 UNION ALL SELECT 2));
INSERT INTO `t` (`id`,`pos`,`v`) VALUES (5,1,0);
